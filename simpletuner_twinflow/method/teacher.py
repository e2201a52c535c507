"""The teacher: EMA weights swapped into the network and random streams replayed, both restored afterwards."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.sharding import is_sharded, own_shard, reshard

# Ids of the parameters that hold teacher weights now. Ids are safe: `teacher_weights` keeps the parameters alive.
_swapped: set[int] = set()


def _index_arguments(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # MPS has one device, and its functions take none


def _device_rng(device: torch.device) -> Tensor:
    state: Tensor = torch.get_device_module(device).get_rng_state(*_index_arguments(device))
    return state


@dataclass(frozen=True)
class RngState:
    """The state of the random streams of the CPU and of some accelerators, e.g. before the student's pass."""

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
            torch.get_device_module(device).set_rng_state(state, *_index_arguments(device))


@contextmanager
def replay_rng(state: RngState) -> Iterator[None]:
    """Run the block with the random numbers that followed `state`, and restore the streams after it."""
    outside = RngState.capture(*state.devices)
    state.restore()
    try:
        yield
    finally:
        outside.restore()


@contextmanager
def teacher_weights(parameters: Iterable[Parameter], shadows: Iterable[Tensor]) -> Iterator[None]:
    """Run the block with the shadow tensors in place of the parameters' weights.

    A shadow is copied for the block only where its dtype or device is not its parameter's. No version counter moves,
    so the block may come between the student's forward and backward pass, also with gradient checkpointing.

    Of a parameter that FSDP2 has sharded each rank exchanges its own shard in place, since FSDP2 gathers from that
    memory: nothing is sent, and the student's shard is copied for the block. All ranks must enter together, and
    `sharding.reshard` the network before and after.

    Args:
        parameters: the trainable parameters.
        shadows: their averages, in the same order, of the same shapes, and sharded alike.

    Raises:
        TwinFlowError: if counts, shapes or shards differ, or a parameter holds teacher weights already (nested, or
            named twice). Nothing has been swapped then.
    """
    parameters, shadows = list(parameters), list(shadows)
    _check_pairs(parameters, shadows)
    sharded = [(own_shard(it), own_shard(shadow)) for it, shadow in _pairs(parameters, shadows) if is_sharded(it)]
    whole = [(it, shadow) for it, shadow in _pairs(parameters, shadows) if not is_sharded(it)]
    students, own = [it.data for it, _ in whole], [shard.clone() for shard, _ in sharded]
    teachers = [shadow.to(device=it.device, dtype=it.dtype) for it, shadow in whole]
    swapped = {id(parameter) for parameter in parameters}
    _swapped.update(swapped)
    try:
        for shard, shadow in sharded:
            shard.copy_(shadow, non_blocking=True)
        for (parameter, _), weights in zip(whole, teachers, strict=True):
            parameter.data = weights
        yield
    finally:
        for (parameter, _), weights in zip(whole, students, strict=True):
            parameter.data = weights
        for (shard, _), weights in zip(sharded, own, strict=True):
            shard.copy_(weights)
        _swapped.difference_update(swapped)


@contextmanager
def lent_weights(network: nn.Module, parameters: Iterable[Parameter], shadows: Iterable[Tensor]) -> Iterator[None]:
    """`teacher_weights` of a network, also of one that FSDP2 has sharded; its parameters as they are between passes."""
    parameters = list(parameters)
    if not any(map(is_sharded, parameters)):  # then there is nothing to gather, and no walk over all modules
        with teacher_weights(parameters, shadows):
            yield
        return
    reshard(network)  # else the passes would be made with what is gathered already
    try:
        with teacher_weights(parameters, shadows):
            yield
    finally:
        reshard(network)


def _pairs(parameters: list[Parameter], shadows: list[Tensor]) -> Iterator[tuple[Parameter, Tensor]]:
    return zip(parameters, shadows, strict=True)


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
        if is_sharded(parameter) != is_sharded(shadow) or own_shard(parameter).shape != own_shard(shadow).shape:
            raise TwinFlowError(
                f"Shadow {position} and its parameter are not sharded alike: on this rank they have the shapes "
                f"{tuple(own_shard(shadow).shape)} and {tuple(own_shard(parameter).shape)}."
            )
        if id(parameter) in _swapped or id(parameter) in seen:
            raise TwinFlowError(
                f"Parameter {position}, of shape {tuple(parameter.shape)}, already holds teacher weights: "
                "teacher_weights does not nest, and each parameter is named once."
            )
        seen.add(id(parameter))
