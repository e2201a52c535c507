"""What the soak does to a run: kills at a moment, and notes of time and memory."""

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .events import around, note

TRAINER = "simpletuner.helpers.training.trainer"


def note_times() -> None:
    """Note when training begins and when the process ends."""

    def train(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        note(kind="began", at=time.time())
        atexit.register(lambda: note(kind="ended", at=time.time()))
        return wrapped(*args, **kwargs)

    around(TRAINER, "Trainer.train", train)


def killed_later() -> None:
    """Kill this process SOAK_KILL_AFTER seconds after training has begun, if it is the rank SOAK_KILL_RANK."""

    def train(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        if os.environ.get("RANK", "0") == os.environ["SOAK_KILL_RANK"]:
            wait = float(os.environ["SOAK_KILL_AFTER"])
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return wrapped(*args, **kwargs)

    around(TRAINER, "Trainer.train", train)


def note_memory() -> None:
    """Note what the process holds at each fiftieth step, in bytes."""

    def log(wrapped: Callable, accelerator: Any, args: tuple, kwargs: dict) -> Any:
        if (step := kwargs.get("step")) is not None and step % 50 == 0 and "train_loss" in args[0]:
            note(kind="memory", step=step, held=psutil.Process().memory_info().rss)
        return wrapped(*args, **kwargs)

    around("accelerate.accelerator", "Accelerator.log", log)


def wandb_killed_in_step_3() -> None:
    """Kill W&B's own process, which writes what is logged."""

    def log(wrapped: Callable, accelerator: Any, args: tuple, kwargs: dict) -> Any:
        if kwargs.get("step") == 3 and "train_loss" in args[0]:
            for process in psutil.Process().children(recursive=True):
                if "wandb-core" in " ".join([process.name(), *process.cmdline()]):
                    note(kind="wandb", killed=Path(process.cmdline()[0]).name)
                    process.kill()
        return wrapped(*args, **kwargs)

    around("accelerate.accelerator", "Accelerator.log", log)
