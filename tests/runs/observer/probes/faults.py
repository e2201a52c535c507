"""Faults put into a run: of the plugin, of the host, of the machine."""

import multiprocessing.queues
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from .events import around, replace


def chart_that_cannot_be_drawn() -> None:
    """Drawing the trajectory chart raises."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no paper left")

    replace("simpletuner_twinflow.host.training.wandb_chart", "trajectory_chart", lambda original: fail)


def term_that_is_not_a_number() -> None:
    """The RCGM target, and with it one term of the loss, is NaN."""

    def spoilt(rcgm_target: Callable) -> Callable:
        return lambda *args, **kwargs: rcgm_target(*args, **kwargs) * float("nan")

    replace("simpletuner_twinflow.method.objective", "rcgm_target", spoilt)


def slow_queues() -> None:
    """Each message takes a while on its way through a queue between processes; on a busy machine it does."""

    class Slow(multiprocessing.queues._ForkingPickler):
        @classmethod
        def dumps(cls, message: Any, protocol: int | None = None) -> Any:
            time.sleep(0.5 if isinstance(message, dict) else 0)
            return super().dumps(message, protocol)

    multiprocessing.queues._ForkingPickler = Slow


def changed_seam() -> None:
    """A method that the plugin needs has lost its parameters; a run that does not evaluate goes on without it."""
    path = "Evaluation.execute_eval"
    replace("simpletuner.helpers.training.validation", path, lambda original: lambda self, other: None)


def killed_in_checkpoint_2() -> None:
    """As `killed_in_checkpoint_6`, at the second step."""
    _kill_in_checkpoint("checkpoint-2")


def killed_in_checkpoint_6() -> None:
    """Killed at the last thing before the manifest and the guard file that say that a checkpoint is whole."""
    _kill_in_checkpoint("checkpoint-6")


def killed_in_step_5() -> None:
    """Killed when the fifth step is logged."""
    _kill(
        "accelerate.accelerator",
        "Accelerator.log",
        lambda args, kwargs: kwargs.get("step") == 5 and "train_loss" in args[0],
    )


def rank_0_is_late() -> None:
    """The first rank comes to look at a checkpoint two seconds after the others."""

    def call(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        if os.environ["RANK"] == "0":
            time.sleep(2)
        return wrapped(*args, **kwargs)

    around("simpletuner_twinflow.host.checkpoints.resume", "damage", call)


def _kill_in_checkpoint(name: str) -> None:
    manager = "simpletuner.helpers.utils.checkpoint_manager"
    _kill(manager, "CheckpointManager.write_manifest", lambda args, kwargs: str(args[0]).endswith(name))


def _kill(module: str, path: str, condition: Callable[[tuple, dict], bool]) -> None:
    """Kill the process at the first call of a function on which the condition holds."""

    def call(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        if condition(args, kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*args, **kwargs)

    around(module, path, call)
