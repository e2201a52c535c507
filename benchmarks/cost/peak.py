"""Inside a run of the host: the largest number of bytes that tensors take at once in a training step."""

import gc
import importlib
import os
import weakref
from typing import Any

import torch
import wrapt
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FILE = "PEAK_FILE"  # environment variable: where the bytes go, "before peak" for each step
IDLE = 4  # first steps, which make the optimizer's state


class Peak(TorchDispatchMode):
    """Counts the memory of all tensors that exist when it begins, and of all that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self._known = 0, 0, set()
        for found in [it for it in gc.get_objects() if issubclass(type(it), Tensor)]:
            self._see(found)
        self.before = self.peak = self.now

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        for found in tree_leaves(result):
            if isinstance(found, Tensor):
                self._see(found)
        self.peak = max(self.peak, self.now)
        return result

    def _see(self, tensor: Tensor) -> None:
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._known:
            self._known.add(key)
            self.now += (size := storage.nbytes())
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def watch() -> None:
    """Begin; called in the run before its trainer starts."""
    name, steps, mode = os.environ[FILE], 0, None

    def prepare(wrapped: Any, trainer: Any, args: Any, kwargs: Any) -> Any:
        nonlocal mode
        if steps >= IDLE and mode is None:
            (mode := Peak()).__enter__()
        return wrapped(*args, **kwargs)

    def step(wrapped: Any, optimizer: Any, args: Any, kwargs: Any) -> Any:
        nonlocal steps, mode
        result, steps = wrapped(*args, **kwargs), steps + 1
        if mode is not None:
            mode.__exit__(None, None, None)
            with open(name, "a", encoding="utf-8") as file:
                file.write(f"{mode.before} {mode.peak}\n")
            mode = None
        return result

    importlib.import_module("simpletuner.helpers.training.trainer")
    wrapt.wrap_function_wrapper("simpletuner.helpers.training.trainer", "Trainer.prepare_batch", prepare)
    wrapt.wrap_function_wrapper("accelerate.optimizer", "AcceleratedOptimizer.step", step)
