"""The runs of the real host that the tests look at. About a minute each, so many tests share few of them."""

from pathlib import Path
from typing import Any

from PIL import Image

from demo.digits import write_digits
from demo.train import datasets
from tests.runs.damage_recipes import DAMAGE_RECIPES
from tests.runs.diff2flow_recipes import DIFF2FLOW_RECIPES
from tests.runs.export_recipes import EXPORT_RECIPES
from tests.runs.harness import FULL, SEED, TINY, Host, Run, Runs
from tests.runs.precision_recipes import PRECISION_RECIPES
from tests.runs.rank_recipes import RANK_RECIPES
from tests.runs.resume_recipes import RESUME_RECIPES

OFF = {key: value for key, value in SEED.items() if not key.startswith("twinflow_")}
ORDINARY_SAMPLING = {"validation_num_inference_steps": 5, "validation_guidance": 3.0}
ADVERSARIAL = {"twinflow_adversarial_enabled": True}
TWENTY_STEPS = {"max_train_steps": 20, "checkpointing_steps": 20, "validation_disable": True}
PROBE_EACH_STEP = "import step_probe; step_probe.install(note)"
BREAK_CHART = """
def attach(module):
    def trajectory_chart(*args, **kwargs):
        raise ValueError("no paper left")
    module.trajectory_chart = trajectory_chart
wrapt.register_post_import_hook(attach, "simpletuner_twinflow.host.training.wandb_chart")
"""
BREAK_TERM = """
def attach(module):
    rcgm_target = module.rcgm_target
    module.rcgm_target = lambda *args, **kwargs: rcgm_target(*args, **kwargs) * float("nan")
wrapt.register_post_import_hook(attach, "simpletuner_twinflow.method.objective")
"""
WATCH_EVALUATION = """
evaluating = []
def attach(module):
    def call(wrapped, instance, args, kwargs):
        evaluating.append(True)
        try:
            return wrapped(*args, **kwargs)
        finally:
            evaluating.clear()
    wrapt.wrap_function_wrapper(module, "Evaluation.execute_eval", call)
def network_pass(model, args, kwargs):
    batch = args[0] if args else kwargs["prepared_batch"]
    keys = ("timesteps", "twinflow_target_time", "twinflow_sign")
    return {"kind": "evaluation", **{key: batch[key].tolist() for key in keys}} if evaluating else None
wrapt.register_post_import_hook(attach, "simpletuner.helpers.training.validation")
wrapt.register_post_import_hook(before("SD3.model_predict", network_pass), "simpletuner.helpers.models.sd3.model")
"""
# Each message takes a while on its way through a queue between processes; on a busy machine it does.
SLOW_QUEUES = """
import multiprocessing.queues, time
class Slow(multiprocessing.queues._ForkingPickler):
    @classmethod
    def dumps(cls, message, protocol=None):
        time.sleep(0.5 if isinstance(message, dict) else 0)
        return super().dumps(message, protocol)
multiprocessing.queues._ForkingPickler = Slow
"""
# Something that this run of the host does not call, so that the run can go on without it.
CHANGE_A_SEAM = """
def change(module):
    module.Evaluation.execute_eval = lambda self, other: None
wrapt.register_post_import_hook(change, "simpletuner.helpers.training.validation")
"""


def seed_lora(host: Host, runs: Runs) -> tuple[Run, Run]:
    """The documented quick-start config, stopped after 4 steps, then resumed to 6."""
    first = host.train("seed_lora", SEED | TINY, command="simpletuner")
    longer = {"max_train_steps": 6, "resume_from_checkpoint": "latest"}
    return first, host.train("seed_lora", SEED | TINY | longer, command="simpletuner")


def adversarial_lora(host: Host, runs: Runs) -> Run:
    """Everything on, with a W&B run, a benchmark of the base model by its own settings, and each step probed."""
    config = SEED | TINY | ADVERSARIAL | {"report_to": "wandb", "disable_benchmark": False} | ORDINARY_SAMPLING
    # Dropout kept by the host's switch, so that each pass draws random numbers and it shows which.
    environment = {"OBSERVER_CODE": PROBE_EACH_STEP, "SIMPLETUNER_LORA_DROPOUT_FORCE_ENABLED": "1"}
    return host.train("adversarial_lora", config, environment=environment)


def full(host: Host, runs: Runs) -> Run:
    """Full fine-tune, adversarial off, no tracker."""
    return host.train("full", SEED | TINY | FULL | {"validation_disable": True, "report_to": "none"})


def adversarial_full(host: Host, runs: Runs) -> Run:
    """Full fine-tune, everything on, each step probed."""
    probe = {"OBSERVER_CODE": PROBE_EACH_STEP}
    return host.train("adversarial_full", SEED | TINY | FULL | ADVERSARIAL, environment=probe)


def shapes(host: Host, runs: Runs) -> Run:
    """Two image sets with batch sizes of their own, in two aspect ratios each, of few images."""
    [square, _] = datasets(host.images)
    sets = [wide_and_square(host.folder / name, count, name) for name, count in (("first", 5), ("second", 4))]
    sets[1]["train_batch_size"] = 3
    for image_set in sets:
        image_set |= {key: square[key] for key in square if key not in image_set}
    config = SEED | TINY | FULL | ADVERSARIAL | {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    config |= {"validation_disable": True, "max_train_steps": 6, "aspect_bucket_alignment": 32}
    return host.train("shapes", config, images=sets, environment={"OBSERVER_CODE": PROBE_EACH_STEP})


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
    config = SEED | TINY | ADVERSARIAL | {"report_to": "wandb", "validation_disable": True, "max_train_steps": 2}
    return host.train("failing_chart", config, environment={"OBSERVER_CODE": BREAK_CHART})


def not_finite(host: Host, runs: Runs) -> Run:
    """One term of the loss is NaN."""
    config = SEED | TINY | FULL | ADVERSARIAL | {"validation_disable": True}
    return host.train("not_finite", config, environment={"OBSERVER_CODE": BREAK_TERM})


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
    return host.train("evaluated", config, images=sets, environment={"OBSERVER_CODE": WATCH_EVALUATION})


def slow_scan(host: Host, runs: Runs) -> Run:
    """An image set whose metadata fill a pipe, and a machine so busy that a queue's entries come late."""
    images = host.folder / "many_digits"
    write_digits(images, limit=700)
    own = {"id": "many", "instance_data_dir": str(images), "cache_dir_vae": "cache/vae-many"}
    config = SEED | TINY | FULL | {"validation_disable": True, "max_train_steps": 1, "report_to": "none"}
    return host.train(
        "slow_scan", config, images=[datasets(host.images)[0] | own], environment={"OBSERVER_CODE": SLOW_QUEUES}
    )


def seam_missing(host: Host, runs: Runs) -> tuple[Run, Run]:
    """A host with a changed seam: with TwinFlow on, and off."""
    environment = {"OBSERVER_CODE": CHANGE_A_SEAM}
    quick = {"max_train_steps": 1, "validation_disable": True}
    how = {"environment": environment, "command": "accelerate"}  # the seam must be changed before the plugin looks
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
RECIPES |= RANK_RECIPES | RESUME_RECIPES | PRECISION_RECIPES | EXPORT_RECIPES | DIFF2FLOW_RECIPES | DAMAGE_RECIPES
