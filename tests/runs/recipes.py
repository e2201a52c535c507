"""The runs of the real host that the tests look at. About a minute each, so many tests share few of them."""

from pathlib import Path
from typing import Any

from PIL import Image

from testbed.digits import write_digits
from testbed.trainer import datasets
from tests.runs.auxiliary_recipes import AUXILIARY_RECIPES
from tests.runs.context_recipes import CONTEXT_RECIPES
from tests.runs.damage_recipes import DAMAGE_RECIPES
from tests.runs.data_recipes import DATA_RECIPES
from tests.runs.deepspeed_recipes import DEEPSPEED_RECIPES
from tests.runs.diff2flow_recipes import DIFF2FLOW_RECIPES
from tests.runs.export_recipes import EXPORT_RECIPES
from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.lycoris_recipes import LYCORIS_RECIPES
from tests.runs.memory_recipes import MEMORY_RECIPES
from tests.runs.observer.probes import faults
from tests.runs.observer.probes.evaluation import note_evaluation_passes
from tests.runs.observer.probes.training_step import note_each_step
from tests.runs.precision_recipes import PRECISION_RECIPES
from tests.runs.quality_recipes import QUALITY_RECIPES
from tests.runs.rank_recipes import RANK_RECIPES
from tests.runs.resume_recipes import RESUME_RECIPES
from tests.runs.run import Run
from tests.runs.sharded_recipes import SHARDED_RECIPES
from tests.runs.streamed_recipes import STREAMED_RECIPES

OFF = {key: value for key, value in SEED.items() if not key.startswith("twinflow_")}
ORDINARY_SAMPLING = {"validation_num_inference_steps": 5, "validation_guidance": 3.0}
ADVERSARIAL = {"twinflow_adversarial_enabled": True}
SIX_ROWS = {"gradient_accumulation_steps": 6}  # a window in which each role has a row
TWENTY_STEPS = {"max_train_steps": 20, "checkpointing_steps": 20, "validation_disable": True}


def seed_lora(host: Host, runs: Runs) -> tuple[Run, Run]:
    """The documented quick-start config, stopped after 4 steps, then resumed to 6, without the tests' aid for CPUs."""
    own = {"command": "simpletuner", "environment": {"OBSERVER_PINS": "1"}}
    first = host.train("seed_lora", SEED | TINY, **own)
    longer = {"max_train_steps": 6, "resume_from_checkpoint": "latest", "ema_decay": 0.98}
    return first, host.train("seed_lora", SEED | TINY | longer, **own)


def adversarial_lora(host: Host, runs: Runs) -> Run:
    """Everything on, with a W&B run, a benchmark of the base model by its own settings, and each step probed."""
    config = SEED | TINY | ADVERSARIAL | SIX_ROWS | ORDINARY_SAMPLING
    config |= {"report_to": "wandb", "disable_benchmark": False}
    config |= {"twinflow_quality_samples": 8, "twinflow_quality_interval": 2, "twinflow_quality_sheet": 3}
    # Dropout kept by the host's switch, so that each pass draws random numbers and it shows which.
    kept = {"SIMPLETUNER_LORA_DROPOUT_FORCE_ENABLED": "1"}
    return host.train("adversarial_lora", config, probe=note_each_step, environment=kept)


def full(host: Host, runs: Runs) -> Run:
    """Full fine-tune, adversarial off, no tracker."""
    return host.train("full", SEED | TINY | FULL | {"validation_disable": True, "report_to": "none"})


def adversarial_full(host: Host, runs: Runs) -> Run:
    """Full fine-tune, everything on, each step probed; the frozen base of guidance kept in bf16 on the CPU."""
    base = {"twinflow_guidance_base_dtype": "bfloat16", "twinflow_guidance_base_device": "cpu"}
    base |= {"twinflow_quality_samples": 8, "twinflow_quality_interval": 2}
    return host.train("adversarial_full", SEED | TINY | FULL | ADVERSARIAL | base, probe=note_each_step)


def shapes(host: Host, runs: Runs) -> Run:
    """Two image sets with batch sizes of their own, in two aspect ratios each, of few images; guidance by the EMA."""
    [square, _] = datasets(host.images)
    sets = [wide_and_square(host.folder / name, count, name) for name, count in (("first", 5), ("second", 4))]
    sets[1]["train_batch_size"] = 3
    for image_set in sets:
        image_set |= {key: square[key] for key in square if key not in image_set}
    config = SEED | TINY | FULL | ADVERSARIAL | {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    config |= {"validation_disable": True, "max_train_steps": 6, "aspect_bucket_alignment": 32}
    config |= {"twinflow_guidance_reference": "ema", "twinflow_quality_samples": 10, "twinflow_quality_interval": 3}
    return host.train("shapes", config, images=sets, probe=note_each_step)


def wide_and_square(folder: Path, count: int, name: str) -> dict[str, Any]:
    """An image set of so many square digits and as many that are half as wide again."""
    write_digits(folder, limit=2 * count)
    for path in sorted(folder.glob("*.png"))[count:]:
        Image.open(path).resize((96, 64)).save(path)
    return {"id": name, "instance_data_dir": str(folder), "cache_dir_vae": f"cache/vae-{name}", "repeats": 1}


def off_with_plugin(host: Host, runs: Runs) -> Run:
    """The flag absent, the plugin installed."""
    return host.train("off_with_plugin", OFF | TINY | TWENTY_STEPS, command="accelerate")


def off_without_plugin(host: Host, runs: Runs) -> Run:
    """The flag absent, the plugin not installed."""
    return host.train("off_without_plugin", OFF | TINY | TWENTY_STEPS, command="bare")


def hosts_own(host: Host, runs: Runs) -> Run:
    """The host's implementation, with the keys it cannot parse by itself."""
    own = {"twinflow_implementation": "host", "validation_disable": True, "max_train_steps": 2}
    return host.train("hosts_own", SEED | TINY | FULL | ADVERSARIAL | own)


def disabled(host: Host, runs: Runs) -> tuple[Run, Run]:
    """The documented config with the plugin switched off, and without it."""
    switched_off: dict[str, Any] = {"environment": {"SIMPLETUNER_TWINFLOW_DISABLED": "1"}, "command": "accelerate"}
    return host.train("disabled", SEED | TINY, **switched_off), host.train("bare", SEED | TINY, command="bare")


def refused(host: Host, runs: Runs) -> Run:
    """A value out of range."""
    return host.train("refused", SEED | TINY | {"twinflow_delta_t": 2.0}, command="simpletuner")


def failing_chart(host: Host, runs: Runs) -> Run:
    """A W&B run whose trajectory chart cannot be drawn."""
    config = SEED | TINY | ADVERSARIAL | SIX_ROWS
    config |= {"report_to": "wandb", "validation_disable": True, "max_train_steps": 2}
    return host.train("failing_chart", config, probe=faults.chart_that_cannot_be_drawn)


def not_finite(host: Host, runs: Runs) -> Run:
    """One term of the loss is NaN."""
    config = SEED | TINY | FULL | ADVERSARIAL | {"validation_disable": True}
    return host.train("not_finite", config, probe=faults.term_that_is_not_a_number)


def evaluated(host: Host, runs: Runs) -> Run:
    """With an evaluation set, whose loss is plain flow matching's."""
    images = host.folder / "eval_digits"
    write_digits(images, limit=4)
    [digits, _] = datasets(host.images)
    kept_back = digits | {"id": "eval", "dataset_type": "eval", "instance_data_dir": str(images), "repeats": 0}
    config = SEED | TINY | ADVERSARIAL | {"train_batch_size": 2, "max_train_steps": 2}
    # In step 1: after its last step the host evaluates no more.
    config |= {"validation_steps": 100, "eval_steps_interval": 1, "eval_timesteps": 3}
    sets = [digits, kept_back | {"cache_dir_vae": "cache/vae-eval"}]
    return host.train("evaluated", config, images=sets, probe=note_evaluation_passes)


def slow_scan(host: Host, runs: Runs) -> Run:
    """An image set whose metadata fill a pipe, and a machine so busy that a queue's entries come late."""
    images = host.folder / "many_digits"
    write_digits(images, limit=700)
    own = {"id": "many", "instance_data_dir": str(images), "cache_dir_vae": "cache/vae-many"}
    config = SEED | TINY | FULL | {"validation_disable": True, "max_train_steps": 1, "report_to": "none"}
    return host.train("slow_scan", config, images=[datasets(host.images)[0] | own], probe=faults.slow_queues)


def seam_missing(host: Host, runs: Runs) -> tuple[Run, Run]:
    """A host with a changed seam: with TwinFlow on, and off."""
    quick = {"max_train_steps": 1, "validation_disable": True}
    how: dict[str, Any] = {
        "probe": faults.changed_seam,
        "command": "accelerate",
    }  # the seam must be changed before the plugin looks
    on = host.train("seam_missing_on", SEED | TINY | quick, **how)
    return on, host.train("seam_missing_off", OFF | TINY | quick, **how)


# Those that start the real command, which take longest, come first.
RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        seed_lora,
        disabled,
        seam_missing,
        off_with_plugin,
        off_without_plugin,
        adversarial_lora,
        adversarial_full,
        shapes,
        full,
        hosts_own,
        refused,
        slow_scan,
        failing_chart,
        not_finite,
        evaluated,
    )
}
RECIPES |= (
    RANK_RECIPES
    | SHARDED_RECIPES
    | CONTEXT_RECIPES
    | DEEPSPEED_RECIPES
    | RESUME_RECIPES
    | PRECISION_RECIPES
    | EXPORT_RECIPES
    | DIFF2FLOW_RECIPES
    | DAMAGE_RECIPES
    | QUALITY_RECIPES
    | AUXILIARY_RECIPES
    | LYCORIS_RECIPES
    | STREAMED_RECIPES
    | MEMORY_RECIPES
    | DATA_RECIPES
)
