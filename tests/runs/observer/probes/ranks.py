"""What each of several processes of a run comes to."""

import atexit
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

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
