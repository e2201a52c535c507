"""Weights that FSDP2 shards over several ranks: a rank's own part of them, and passes that all ranks make together."""

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over ranks, as the parameters of an FSDP2 network are between its passes."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_shard(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the tensor's own memory; all of one that is not sharded.

    Writing to it moves no version counter that autograd looks at.
    """
    return tensor.data.to_local().data if is_sharded(tensor) else tensor.data  # type: ignore[attr-defined]


def like_sharded(whole: Tensor, sharded: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, spread over the ranks like another one. Nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = sharded.device_mesh, sharded.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(sharded.device), mesh, placements, src_data_rank=None).to(sharded.dtype)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, put together from all ranks, each of which must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def reshard(network: nn.Module) -> None:
    """Drop what an FSDP2 network has gathered, so that its parameters are the sharded ones and passes gather anew.

    FSDP2 keeps the weights outside of the wrapped blocks after a pass, and would make the next one with them. Calls
    between a pass with gradient and its backward are fine: that gathers again. No effect on other networks.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return  # before the walk over all modules, which a large network's passes would feel
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
