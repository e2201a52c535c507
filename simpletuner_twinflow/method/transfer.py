"""Copies of numbers and CPU tensors to the device, without waiting for it.

`torch.tensor(values, device="cuda")` and `tensor.to("cuda")` copy from pageable memory and wait for all earlier work
of the device. A copy from pinned memory is queued behind that work instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_PINS = ("cuda", "xpu")  # the devices whose copies are asynchronous from pinned memory only


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on this device; one on the CPU is copied without waiting."""
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    return (tensor.pin_memory() if device.type in _PINS else tensor).to(device, non_blocking=True)


def numbers(values: Sequence[float], device: torch.device) -> Tensor:
    """(n,) float32 of numbers from Python."""
    return on_device(torch.tensor(values, dtype=torch.float32), device)


def row_index(rows: Sequence[int], device: torch.device) -> Tensor:
    """(n,) row numbers from Python, as an index; consecutive ones are made on the device itself."""
    if len(rows) > 0 and tuple(rows) == tuple(range(rows[0], rows[0] + len(rows))):
        return torch.arange(rows[0], rows[0] + len(rows), device=device)
    return on_device(torch.tensor(rows, dtype=torch.long), device)
