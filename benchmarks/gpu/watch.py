"""Notes, inside a run of the host on a GPU, each step's seconds, the most memory and the waits for the device.

The measured part of a run has the device to itself: it begins when the run before it has ended its own.
"""

import fcntl
import importlib
import json
import os
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import wrapt

FOLDER, NOTES, IDLE, TIMED, LOCK = "GPU_WATCH", "notes.json", 3, 10, "device.lock"
WAITED = 2  # steps after the timed ones, in which waits are counted
TORCH = str(Path(torch.__file__).parent)
OURS = f"{os.sep}simpletuner_twinflow{os.sep}"


class Watch:
    """What one run has shown so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.moments = folder, []
        self.waits: list[str] = []
        self.steps = 0
        self.peak = 0.0

    def begin(self, wrapped: Any, trainer: Any, args: Any, kwargs: Any) -> Any:
        """Around `Trainer.train`."""
        self._lock = open(self.folder.parent / LOCK, "w", encoding="utf-8")  # noqa: SIM115 - held to the last step
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return wrapped(*args, **kwargs)

    def step(self, wrapped: Any, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Around `AcceleratedOptimizer.step`."""
        result = wrapped(*args, **kwargs)
        if not optimizer.gradient_state.sync_gradients:
            return result
        self.steps += 1
        on_gpu = torch.cuda.is_available()
        if self.steps <= IDLE + TIMED:
            if on_gpu:
                torch.cuda.synchronize()
            self.moments.append(time.perf_counter())
        if self.steps == IDLE and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        if self.steps == IDLE + TIMED and on_gpu:
            self.peak = torch.cuda.max_memory_allocated() / 1e9
            warnings.showwarning = self.waited
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if self.steps == IDLE + TIMED + WAITED:
            self.write()
            os._exit(0)  # with all its memory, which the next run needs; what a run ends with costs no step
        return result

    def waited(self, message: Any, *_: Any, **__: Any) -> None:
        """In place of `warnings.showwarning`."""
        if "synchroniz" in str(message):
            frames = [frame for frame in traceback.extract_stack()[:-1] if not frame.filename.startswith(TORCH)]
            named = [f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}" for frame in frames[-3:]]
            ours = " ours" if OURS in frames[-1].filename else ""
            self.waits.append(" > ".join(named) + ours)

    def write(self) -> None:
        """The notes."""
        took = [b - a for a, b in zip(self.moments[IDLE - 1 :], self.moments[IDLE:], strict=False)]
        notes = {"seconds": took, "peak_gb": self.peak, "waits": self.waits}
        (self.folder / NOTES).write_text(json.dumps(notes, indent=1), encoding="utf-8")


def watch() -> None:
    """Begin; called in the run before its trainer starts."""
    it = Watch(Path(os.environ[FOLDER]))
    for module, name, wrapper in (
        ("simpletuner.helpers.training.trainer", "Trainer.train", it.begin),
        ("accelerate.optimizer", "AcceleratedOptimizer.step", it.step),
    ):
        importlib.import_module(module)
        wrapt.wrap_function_wrapper(module, name, wrapper)
