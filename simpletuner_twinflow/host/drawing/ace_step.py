"""ACE-Step's validation: its pipeline makes a scheduler of its own in each call, in whose place ours is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from simpletuner_twinflow.host.seams import changed

PIPELINE = "simpletuner.helpers.models.ace_step.pipeline"


class CalledWithOmega:
    """A few-step scheduler in calls that also name a strength of the host's own scheduler, which ours does not have."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **more: Any) -> None:
        """As the scheduler's."""
        self._scheduler.set_timesteps(num_inference_steps, device=device, **more)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, omega: float = 0.0, **more: Any) -> Any:
        """As the scheduler's; omega would add to the mean of a step, for many steps."""
        return self._scheduler.step(model_output, timestep, sample, **more)


@contextmanager
def own_scheduler(model: Any) -> Iterator[None]:
    """Inside this block ACE-Step's pipeline makes the few-step scheduler of this model's run; others are left alone."""
    family_model = getattr(model, "twinflow_model", None)
    if family_model is None or not family_model.family.makes_scheduler:
        yield
        return
    from simpletuner.helpers.models.ace_step import pipeline

    def made(**settings: Any) -> CalledWithOmega:
        return CalledWithOmega(family_model.scheduler())

    with changed(pipeline, FlowMatchEulerDiscreteScheduler=made):
        yield
