"""Context parallelism on CPUs, and what its ranks come to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from .events import around, note
from .ranks import compare_gradients, digest, note_weights
from .sharded import start_alike


def note_parts() -> None:
    """Note each rank's weights, its batches, and how far loss and gradient are from those of the whole network."""
    import one_accelerator  # of testbed/cpu, which a run alone has on its path

    one_accelerator.stand_in()
    start_alike()
    note_weights()
    expected: list[Any] = []

    def compute(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        batch = args[0] if args else kwargs["prepared_batch"]
        parameters = list(trainer._get_trainable_parameters())
        with whole(trainer.model.get_trained_component(unwrap_model=True)):
            loss, *_ = wrapped(*args, **kwargs)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        expected[:] = [
            torch.zeros_like(parameter) if part is None else part
            for parameter, part in zip(parameters, found, strict=True)
        ]
        rows = batch.get("twinflow_rows")
        tensors = (batch[name] for name in ("latents", "noise", "noisy_latents", "timesteps"))
        note(kind="batch", bits=digest(tensors), roles=[] if rows is None else [str(role) for role in rows.roles])
        result = wrapped(*args, **kwargs)
        note(kind="loss", whole=float(loss), parts=float(result[0]))
        return result

    compare_gradients(compute, expected)


def note_whole() -> None:
    """Have a run of one process start alike, and draw noise and times as the host does for a group of processes."""
    start_alike()

    @contextmanager
    def seeded(seed: int, step: int) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(int(seed or 0) + int(step))
            yield

    def synchronized(wrapped: Callable, synchronizer: Any, args: tuple, kwargs: dict) -> Any:
        return seeded(*args, **kwargs)

    module = "simpletuner.helpers.data_backend.runtime.context_parallel_sync"
    around(module, "ContextParallelBatchSynchronizer.synchronized_rng", synchronized)


@contextmanager
def whole(network: Any) -> Iterator[None]:
    """Inside this block each rank computes the whole network by itself, as without context parallelism."""
    from diffusers.hooks.context_parallel import EquipartitionSharder

    modules = list(network.modules())
    owners = [*modules, *(module.processor for module in modules if hasattr(module, "processor"))]
    with ExitStack() as back:
        for name in ("shard", "unshard"):
            back.enter_context(patch.object(EquipartitionSharder, name, lambda tensor, dim, mesh: tensor))
        for owner in owners:
            if getattr(owner, "_parallel_config", None) is not None:
                back.enter_context(patch.object(owner, "_parallel_config", None))
        yield
