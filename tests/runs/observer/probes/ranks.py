"""What each of several processes of a run comes to."""

import atexit
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .events import around, note


def note_weights() -> None:
    """Note a digest of a rank's weights and averages after each optimizer step, to the bit."""

    def step(wrapped: Callable, ema: Any, args: tuple, kwargs: dict) -> Any:
        parameters = list(kwargs["parameters"])
        note(kind="weights", weights=digest(parameters))
        result = wrapped(*args, **kwargs | {"parameters": parameters})
        note(kind="averages", averages=digest(ema.shadow_params))
        return result

    around("simpletuner.helpers.training.ema", "EMAModel.step", step)


def digest(tensors: Iterable[Any]) -> str:
    """Of the bits of all tensors."""
    return hashlib.sha256(b"".join(tensor.detach().float().numpy().tobytes() for tensor in tensors)).hexdigest()


def raise_on_rank_1() -> None:
    """The second rank raises in the second step; the times of that and of each rank's end are noted."""

    def call(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        if os.environ["RANK"] == "1" and trainer.state["global_step"] == 1:
            note(kind="raised", at=time.time())
            raise RuntimeError("this rank has had enough")
        return wrapped(*args, **kwargs)

    around("simpletuner.helpers.training.trainer", "Trainer._compute_model_prediction_loss", call)
    atexit.register(lambda: note(kind="ended", at=time.time()))


def note_gradients() -> None:
    """Note how far each rank's gradient of a step is from that of one process with the rows of both ranks."""
    expected: list[Any] = []

    def compute(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        batch = args[0] if args else kwargs["prepared_batch"]
        batches: list[Any] = [None, None]
        torch.distributed.all_gather_object(batches, batch)
        parameters = list(trainer._get_trainable_parameters())
        whole = [torch.zeros_like(parameter) for parameter in parameters]
        for other in batches:
            loss, *_ = trainer.distiller.training_loss(other)
            for total, part in zip(whole, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                total += 0 if part is None else part / 2
        expected[:] = whole
        note(kind="roles", roles=[str(role) for role in batch["twinflow_rows"].roles])
        return wrapped(*args, **kwargs)

    compare_gradients(compute, expected)


def compare_gradients(compute: Callable[[Callable, Any, tuple, dict], Any], expected: list[Any]) -> None:
    """Note how far each step's gradients are from those expected, from where training begins.

    Args: compute: wraps the host's computing of the loss, and puts into `expected` a tensor a trained parameter.
    """

    def backward(wrapped: Callable, accelerator: Any, args: tuple, kwargs: dict) -> Any:
        result = wrapped(*args, **kwargs)
        found = [parameter.grad for group in accelerator._optimizers[0].param_groups for parameter in group["params"]]
        zeros = [torch.zeros_like(each) if one is None else one for one, each in zip(found, expected, strict=True)]
        apart = max(float((one - other).abs().max()) for one, other in zip(zeros, expected, strict=True))
        note(kind="gradient", apart=apart, largest=max(float(it.abs().max()) for it in expected))
        return result

    def begin_training(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> Any:
        around("simpletuner.helpers.training.trainer", "Trainer._compute_model_prediction_loss", compute)
        around("accelerate.accelerator", "Accelerator.backward", backward)
        return wrapped(*args, **kwargs)

    around("simpletuner.helpers.training.trainer", "Trainer.train", begin_training)
