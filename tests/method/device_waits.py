"""Counts what makes the CPU wait for a device, on a machine without one: "meta" stands for the device."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
READS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim", "_unique2"}


class Waits(TorchFunctionMode):
    """Inside this block `found` counts, by name, the calls that wait for a device that is not the CPU.

    A tensor from Python's numbers straight on the device; a copy to or from it that is not `non_blocking`; a value or a
    number of values read from it. A copy counts as pinned if it is non-blocking: whether its memory is, only a device
    shows (`tests/method/test_transfer.py`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._dispatched = _Dispatched(self.found)

    def __enter__(self) -> "Waits":
        self._dispatched.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._dispatched.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in FROM_PYTHON:
            data = args[1] if function is Tensor.new_tensor else args[0]
            home = args[0].device if function is Tensor.new_tensor else torch.get_default_device()
            device = torch.device(kwargs.get("device") or home)
            if device.type != "cpu" and not isinstance(data, Tensor):
                self.found[f"{function.__name__} from Python"] += 1
        return function(*args, **kwargs)


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        tensors = [value for value in args if isinstance(value, Tensor)]
        away = any(tensor.device.type != "cpu" for tensor in tensors)
        if away and name in READS:
            self._found[name] += 1
        if away and name in ("index", "index_put_", "index_put"):
            masks = [at for at in args[1] if at is not None and at.dtype in (torch.bool, torch.uint8)]
            self._found["index by a mask"] += len(masks)
        if name == "_to_copy" and not kwargs.get("non_blocking"):
            target = kwargs.get("device")
            self._found["blocking copy"] += target is not None and torch.device(target) != args[0].device
        if name == "copy_" and args[0].device != args[1].device:
            self._found["blocking copy"] += not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return function(*args, **kwargs)
