"""Pipelines that make the steps of a drawing themselves, by Euler's method, and use no scheduler."""

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.host.run import argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import Seam, uses
from simpletuner_twinflow.host.training.diffusion_model import family_model_for

NOTES = "_validation_"  # how the host's notes to itself begin, among the arguments of a validation's call


class DataShares:
    """Ideogram's `schedule` of a call: a step's time, as the share of the data, from its place in [0, 1]."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        """Args: sigmas: of the sampler, from the first call's down to 0."""
        self._shares = [1 - sigma for sigma in sigmas]

    def __call__(self, places: Tensor) -> Tensor:
        """The time at even places, 1 at noise and 0 at data; both (n,), float32."""
        last = len(self._shares) - 1
        found = [self._shares[last - round(place * last)] for place in places.tolist()]
        return torch.tensor(found, dtype=torch.float32, device=places.device)


def arguments_of_steps(model: Any, steps: int) -> dict[str, Any]:
    """What a call of a `ModelFoundation`'s pipeline is given so that its steps are those that are trained.

    And so that it draws by the run's seed, which the host loses.
    """
    family_model = family_model_for(model)
    if family_model.family.stepped_by != "call":
        return {}
    given: dict[str, Any] = {"schedule": DataShares((*family_model.scheduler().step_times(steps), 0.0))}
    if not model.config.validation_randomize:
        # The host looks for the seed in a generator that it makes after it has looked.
        given["seed"] = model.config.validation_seed or model.config.seed or 0
        log_mending("%s is given the seed %s", type(model.pipeline).__name__, given["seed"])
    return given


@uses(
    Seam("Validation._filter_pipeline_kwargs_for_call", ("pipeline", "kwargs")),
    lost="the validation of zlab_i1 draws nothing",
)
def leave_out_notes(module: ModuleType) -> None:
    """Keep the host's notes on a prompt from a pipeline that raises at any argument it does not know: i1's.

    The host takes every pipeline with `**kwargs` for one that knows all arguments.
    """

    def filtered(wrapped: Callable, validation: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        found: dict[str, Any] = wrapped(*args, **kwargs)
        pipeline = argument(args, kwargs, "pipeline")
        known = inspect.signature(pipeline.__call__).parameters
        notes = [name for name in found if name.startswith(NOTES) and name not in known]
        if notes:
            log_mending("%s is not given %s", type(pipeline).__name__, ", ".join(notes))
        return {name: value for name, value in found.items() if name not in notes}

    wrap_active(module, "Validation._filter_pipeline_kwargs_for_call", filtered)
