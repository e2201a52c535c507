"""Which few-step sampler a pipeline gets, by its class and the scheduler that it comes with."""

from collections.abc import Mapping
from typing import Any

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.base import FewStepScheduler
from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.pipelines import PipelineKind

_DIFFUSION_NAMES = {"sigma_max": "flow_sigma_max", "sigma_min": "flow_sigma_min"}
_DIFFUSION_LACKS = ("shift", "time_dtype", "time_unit")


def few_step_scheduler(
    current: Any, kind: PipelineKind, time_dtype: str = "float32", settings: Mapping[str, Any] | None = None
) -> FewStepScheduler:
    """The few-step sampler in place of a pipeline's own scheduler.

    Its sigmas are those that the model was trained for; the shift of the pipeline's scheduler does not apply to them.

    Args:
        current: the pipeline's scheduler.
        kind: what the pipeline's class says.
        time_dtype: dtype in which a flow network was given its time in training.
        settings: fields of `SamplerSettings` by name, in place of what the sampler has by default.

    Raises:
        TwinFlowError: there is none for this kind of model.
        TwinFlowConfigError: a setting is out of its range, or the sampler for this kind of model does not have it.
    """
    given = dict(settings or {})
    if not kind.diffusion or is_flow_scheduler(current):
        times = {"time_dtype": time_dtype, "time_unit": kind.time_unit}
        timesteps = 1 if kind.invert_sigmas else current.config.get("num_train_timesteps", 1000)
        scheduler: FewStepScheduler = TwinFlowScheduler(
            invert_sigmas=kind.invert_sigmas, num_train_timesteps=timesteps, **times | given
        )
        return scheduler
    prediction_type = current.config.get("prediction_type")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise TwinFlowError(
            f"the pipeline's scheduler is a {type(current).__name__} with prediction_type {prediction_type!r}; "
            "pipelines that predict a flow, epsilon or v can be sampled."
        )
    for name in _DIFFUSION_LACKS:
        if name in given:
            raise TwinFlowConfigError(
                f"{name} is {given[name]!r}; the sampler of epsilon and v models has no such setting: leave it out."
            )
    renamed = {_DIFFUSION_NAMES.get(name, name): value for name, value in given.items()}
    scheduler = TwinFlowDiffusionScheduler.from_config(current.config, **renamed)
    return scheduler


def is_flow_scheduler(scheduler: Any) -> bool:
    """Whether a stock scheduler steps along a flow, by its class or by its settings."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowM")
        or isinstance(scheduler, TwinFlowScheduler)
        or config.get("use_flow_sigmas", False)
        or config.get("prediction_type") in ("flow_prediction", "flow_matching")
    )
