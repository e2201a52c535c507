"""FSDP2 on machines without an accelerator, and what its ranks come to."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from .events import around, before, note


def on_cpu() -> None:
    """Have Accelerate take the host's FSDP plugin in processes of one CPU group, too; it asks for accelerators."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def init(wrapped: Callable, state: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
            PartialState._shared_state["distributed_type"] = state.distributed_type  # as it does for accelerators

    around("accelerate.state", "AcceleratorState.__init__", init)


def note_weights() -> None:
    """FSDP2 on the CPU where the run asks for it; whole weights and averages noted after each step.

    What is added to the network is made alike on all ranks: DDP sends rank 0's to all, FSDP2 takes a part of each.
    """
    on_cpu()
    start_alike()
    passes = [0, 0]  # all, those with gradient

    def count(network: Any, args: tuple, kwargs: dict) -> None:
        passes[0] += 1
        passes[1] += torch.is_grad_enabled()

    def step(wrapped: Callable, ema: Any, args: tuple, kwargs: dict) -> Any:
        parameters = list(kwargs["parameters"])
        result = wrapped(*args, **kwargs | {"parameters": parameters})
        shards = sum(hasattr(it, "full_tensor") for it in parameters)
        note(kind="step", passes=passes[:], sharded=shards, trained=len(parameters))
        note(kind="weights", **described(parameters))
        note(kind="averages", **described(ema.shadow_params))
        passes[:] = 0, 0
        return result

    before("simpletuner.helpers.models.sd3.transformer", "SD3Transformer2DModel.forward", count)
    around("simpletuner.helpers.training.ema", "EMAModel.step", step)


def start_alike() -> None:
    """Have each process make what is added to the network of the same random numbers, however many there are."""

    def alike(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return wrapped(*args, **kwargs)

    trainer = "simpletuner.helpers.training.trainer"
    around(trainer, "Trainer.init_distillation_adapter_modules", alike)
    around(trainer, "Trainer.init_trainable_peft_adapter", alike)


def described(tensors: list[Any]) -> dict[str, Any]:
    """Of the whole tensors: a digest of all bits, and the sum of each."""
    whole = [(it.full_tensor() if hasattr(it, "full_tensor") else it).detach().float() for it in tensors]
    bits = hashlib.sha256(b"".join(it.numpy().tobytes() for it in whole)).hexdigest()
    return {"bits": bits, "sums": [it.double().abs().sum().item() for it in whole]}
