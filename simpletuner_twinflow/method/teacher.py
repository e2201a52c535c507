"""Borrowing: EMA weights and random streams, put back as they were whatever happens in between."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from simpletuner_twinflow.errors import TwinFlowError

# Parameters whose weights are lent out at this moment. Ids are safe: `teacher_weights` holds the parameters meanwhile.
_lent: set[int] = set()


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """How a device module is told which of its devices is meant; MPS has one only and takes no argument."""
    return () if device.type == "mps" else (device,)


def _device_rng(device: torch.device) -> Tensor:
    state: Tensor = torch.get_device_module(device).get_rng_state(*_which(device))
    return state


@dataclass(frozen=True)
class RngState:
    """The state of the CPU's random stream and of some accelerators', e.g. as it was before the student's pass."""

    cpu: Tensor
    devices: dict[torch.device, Tensor]

    @classmethod
    def capture(cls, *devices: torch.device | str) -> "RngState":
        """The state now, of the CPU always and of each accelerator named; naming the CPU is harmless."""
        accelerators = [device for device in map(torch.device, devices) if device.type != "cpu"]
        return cls(cpu=torch.get_rng_state(), devices={device: _device_rng(device) for device in accelerators})

    def restore(self) -> None:
        """Set the streams to this state."""
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            torch.get_device_module(device).set_rng_state(state, *_which(device))


@contextmanager
def replay_rng(state: RngState) -> Iterator[None]:
    """Run the block on the random numbers that followed `state`; the streams outside go on undisturbed."""
    outside = RngState.capture(*state.devices)
    state.restore()
    try:
        yield
    finally:
        outside.restore()


@contextmanager
def teacher_weights(parameters: Iterable[Parameter], shadows: Iterable[Tensor]) -> Iterator[None]:
    """Run the block with the shadow tensors in place of the parameters' weights.

    Only pointers move: nothing is copied unless a shadow has another dtype or device than its parameter (then it is
    cast, for as long as the block lasts), and parameters not named stay as they are. No version counter moves either,
    so the block may stand between a student's forward pass and its backward pass, also where gradient checkpointing
    computes the forward pass again: by then the student's weights are back.

    Args:
        parameters: the trainable parameters.
        shadows: their averages, in the same order and of the same shapes.

    Raises:
        TwinFlowError: if counts or shapes differ, or a parameter is already lent out (nested, or named twice). Nothing
            has been swapped then.
    """
    parameters, shadows = list(parameters), list(shadows)
    _check_pairs(parameters, shadows)
    students = [parameter.data for parameter in parameters]
    teachers = [
        shadow.detach().to(device=weights.device, dtype=weights.dtype)
        for shadow, weights in zip(shadows, students, strict=True)
    ]
    lent = {id(parameter) for parameter in parameters}
    _lent.update(lent)
    try:
        for parameter, weights in zip(parameters, teachers, strict=True):
            parameter.data = weights
        yield
    finally:
        for parameter, weights in zip(parameters, students, strict=True):
            parameter.data = weights
        _lent.difference_update(lent)


def _check_pairs(parameters: list[Parameter], shadows: list[Tensor]) -> None:
    if len(parameters) != len(shadows):
        raise TwinFlowError(
            f"{len(shadows)} shadow tensors for {len(parameters)} trainable parameters: the EMA was made for another "
            "set of parameters."
        )
    seen: set[int] = set()
    for position, (parameter, shadow) in enumerate(zip(parameters, shadows, strict=True)):
        if parameter.shape != shadow.shape:
            raise TwinFlowError(
                f"Shadow {position} has shape {tuple(shadow.shape)}, its parameter {tuple(parameter.shape)}: the EMA "
                "was made for another set of parameters, or in another order."
            )
        if id(parameter) in _lent or id(parameter) in seen:
            raise TwinFlowError(
                f"Parameter {position}, of shape {tuple(parameter.shape)}, already carries teacher weights: "
                "teacher_weights does not nest, and each parameter is named once."
            )
        seen.add(id(parameter))
