"""Which few-step sampler a pipeline gets, by its class and the scheduler that it comes with."""

from typing import Any

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.data_ward import DataWardTwinFlowScheduler
from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.pipelines import PipelineKind
from simpletuner_twinflow.sampling.scheduler import TwinFlowScheduler


def few_step_scheduler(current: Any, kind: PipelineKind) -> Any:
    """The few-step sampler in the place of a pipeline's own scheduler.

    Its levels are those the model was trained for; a shift that the pipeline's scheduler has does not apply to them.

    Raises:
        TwinFlowError: There is none for this kind of model.
    """
    if not kind.diffusion or is_flow_scheduler(current):
        flow = DataWardTwinFlowScheduler if kind.data_ward else TwinFlowScheduler
        return flow(num_train_timesteps=current.config.get("num_train_timesteps", 1000))
    prediction_type = current.config.get("prediction_type")
    if prediction_type in ("epsilon", "v_prediction"):
        return TwinFlowDiffusionScheduler.from_config(current.config)
    raise TwinFlowError(
        f"the pipeline's scheduler is a {type(current).__name__} with prediction_type {prediction_type!r}; "
        "pipelines that predict a flow, epsilon or v can be sampled."
    )


def is_flow_scheduler(scheduler: Any) -> bool:
    """Whether a stock scheduler steps along a flow, by its class or by its settings."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowM")
        or isinstance(scheduler, TwinFlowScheduler)
        or config.get("use_flow_sigmas", False)
        or config.get("prediction_type") in ("flow_prediction", "flow_matching")
    )
