"""Runs of the real host in two processes."""

import shutil
from pathlib import Path

from tests.runs.harness import FULL, SEED, TINY, Host, Run, Runs
from tests.runs.resume_recipes import RESUMED, kept

ADVERSARIAL = {"twinflow_adversarial_enabled": True}
SIX_STEPS = {"max_train_steps": 6, "checkpointing_steps": 3, "validation_steps": 6}
# Notes the weights and averages of a rank after each optimizer step, to the bit.
NOTE_WEIGHTS = """
import hashlib
def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().float().numpy().tobytes() for t in tensors)).hexdigest()
def attach(module):
    def step(wrapped, ema, args, kwargs):
        parameters = list(kwargs["parameters"])
        note(kind="weights", weights=digest(parameters))
        result = wrapped(*args, **kwargs | {"parameters": parameters})
        note(kind="averages", averages=digest(ema.shadow_params))
        return result
    wrapt.wrap_function_wrapper(module, "EMAModel.step", step)
wrapt.register_post_import_hook(attach, "simpletuner.helpers.training.ema")
"""
WATCHED = {"OBSERVER_CODE": NOTE_WEIGHTS}
RAISE_ON_RANK_1 = """
import time
def attach(module):
    def call(wrapped, trainer, args, kwargs):
        if os.environ["RANK"] == "1" and trainer.state["global_step"] == 1:
            note(kind="raised", at=time.time())
            raise RuntimeError("this rank has had enough")
        return wrapped(*args, **kwargs)
    wrapt.wrap_function_wrapper(module, "Trainer._compute_model_prediction_loss", call)
wrapt.register_post_import_hook(attach, "simpletuner.helpers.training.trainer")
import atexit
atexit.register(lambda: note(kind="ended", at=time.time()))
"""

RANK_0_IS_LATE = """
import time
def attach(module):
    def call(wrapped, instance, args, kwargs):
        if os.environ["RANK"] == "0":
            time.sleep(2)
        return wrapped(*args, **kwargs)
    wrapt.wrap_function_wrapper(module, "damage", call)
wrapt.register_post_import_hook(attach, "simpletuner_twinflow.host.checkpoints.resume")
"""


def two_ranks_lora(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """Six steps as torchrun starts them, with a validation; the last checkpoint; the last three steps again."""
    config = SEED | TINY | ADVERSARIAL | SIX_STEPS
    first = host.train_on_ranks("two_ranks_lora", config, command="torchrun", environment=WATCHED)
    reference = kept(first[0], "checkpoint-6")
    _drop(first[0], "checkpoint-6")
    return first, reference, host.train_on_ranks("two_ranks_lora", config | RESUMED, environment=WATCHED)


def two_ranks_full(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """As `two_ranks_lora`, a full fine-tune, which in the plain host hangs at its first checkpoint."""
    config = SEED | TINY | FULL | ADVERSARIAL | SIX_STEPS | {"train_batch_size": 3}
    first = host.train_on_ranks("two_ranks_full", config, environment=WATCHED)
    reference = kept(first[0], "checkpoint-6")
    _drop(first[0], "checkpoint-6")
    return first, reference, host.train_on_ranks("two_ranks_full", config | RESUMED, environment=WATCHED)


def rank_raises(host: Host, runs: Runs) -> list[Run]:
    """One of two ranks raises in the second step."""
    config = SEED | TINY | ADVERSARIAL | {"validation_disable": True}
    return host.train_on_ranks("rank_raises", config, environment={"OBSERVER_CODE": RAISE_ON_RANK_1})


def damaged_on_ranks(host: Host, runs: Runs) -> list[Run]:
    """The newest checkpoint damaged and to be deleted; one rank comes to look at it late."""
    first, _, _ = runs["two_ranks_lora"]
    folder = host.folder / "damaged_on_ranks"
    shutil.copytree(first[0].folder, folder)
    damaged = folder / "output/checkpoint-6"
    damaged.joinpath("optimizer.bin").write_bytes(b"")
    config = SEED | TINY | ADVERSARIAL | SIX_STEPS | RESUMED | {"max_train_steps": 4, "validation_disable": True}
    config |= {"delete_invalid_checkpoints": True}
    return host.train_on_ranks(folder.name, config, environment={"OBSERVER_CODE": RANK_0_IS_LATE})


def _drop(run: Run, checkpoint: str) -> None:
    """Have the next run resume from the checkpoint before this one."""
    shutil.rmtree(run.output / checkpoint)


RANK_RECIPES = {recipe.__name__: recipe for recipe in (two_ranks_lora, two_ranks_full, rank_raises, damaged_on_ranks)}
