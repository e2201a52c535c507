"""Counts the bytes of tensors that are alive, by watching every operation of torch."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .events import around, note


class AliveBytes(TorchDispatchMode):
    """Bytes of the memories that operations inside the block have made, now and at most; each memory once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what is new."""
        result = func(*args, **(kwargs or {}))
        given = {id(it.untyped_storage()) for it in tree_iter((args, kwargs)) if isinstance(it, torch.Tensor)}
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return result

    def _count(self, memory: torch.UntypedStorage, given: set[int]) -> None:
        key, count = id(memory), memory.nbytes()
        if key in self._seen or key in given:
            return
        self._seen.add(key)
        self.now += count
        self.most = max(self.most, self.now)
        weakref.finalize(memory, self._gone, key, count)

    def _gone(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.now -= count


def note_memory() -> None:
    """Note, of each step, the bytes that the parts of the run keep, and the most that loss and backward add to them."""
    watched: list[AliveBytes] = []
    parts: dict[str, int] = {}

    def loss(wrapped: Any, trainer: Any, args: Any, kwargs: Any) -> Any:
        watched[:] = [AliveBytes()]
        with watched[0]:
            result = wrapped(*args, **kwargs)
        network = trainer.model.get_trained_component(unwrap_model=True)
        trained = [it for it in network.parameters() if it.requires_grad]
        states = [value for state in trainer.optimizer.state.values() for value in state.values()]
        base = trainer.distiller.base
        parts.update(
            weights=_bytes(network.parameters()),
            gradients=_bytes(trained),
            optimizer=_bytes(it for it in states if isinstance(it, torch.Tensor)),
            ema=_bytes(trainer.ema_model.shadow_params),
            base=0 if base is None else _bytes(base.kept()),
            activations=watched[0].now,  # the graph of the loss is alive here
        )
        return result

    def backward(wrapped: Any, accelerator: Any, args: Any, kwargs: Any) -> Any:
        with watched[0]:
            result = wrapped(*args, **kwargs)
        note(kind="memory", **parts, most=watched[0].most)
        return result

    around("simpletuner.helpers.training.trainer", "Trainer._compute_model_prediction_loss", loss)
    around("accelerate.accelerator", "Accelerator.backward", backward)


def _bytes(tensors: Any) -> int:
    return sum(it.numel() * it.element_size() for it in tensors)
