"""What the network is asked while the host works out its evaluation loss."""

from collections.abc import Callable
from typing import Any

from .events import around, before


def note_evaluation_passes() -> None:
    """Note the times and signs of each pass."""
    evaluating: list[bool] = []

    def call(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        evaluating.append(True)
        try:
            return wrapped(*args, **kwargs)
        finally:
            evaluating.clear()

    def network_pass(model: Any, args: tuple, kwargs: dict) -> dict | None:
        batch = args[0] if args else kwargs["prepared_batch"]
        keys = ("timesteps", "twinflow_target_time", "twinflow_sign")
        return {"kind": "evaluation", **{key: batch[key].tolist() for key in keys}} if evaluating else None

    around("simpletuner.helpers.training.validation", "Evaluation.execute_eval", call)
    before("simpletuner.helpers.models.sd3.model", "SD3.model_predict", network_pass)
