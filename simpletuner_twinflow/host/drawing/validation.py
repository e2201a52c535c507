"""Few-step validation: our scheduler for student and EMA, the ordinary sampler for the base-model benchmark."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.drawing.ace_step import PIPELINE, own_scheduler
from simpletuner_twinflow.host.drawing.own_steps import arguments_of_steps
from simpletuner_twinflow.host.run import argument, options_of, wrap_active
from simpletuner_twinflow.host.seams import MODELS, Seam, Touch, changed, set_on, uses, wrap
from simpletuner_twinflow.host.settings.families import FAMILIES
from simpletuner_twinflow.host.training.trainer import distiller_of

HOSTS_OWN = "HostTwinFlowScheduler"
STEPS = {"num_inference_steps", "num_steps"}  # what the families' pipelines call the number of steps
GUIDANCE = {"guidance_scale", "guidance_scale_2", "text_guidance_scale", "audio_guidance_scale"}  # 0: the prompt alone
REAL_GUIDANCE = {"guidance_scale_real", "true_cfg_scale"}  # 1: the prompt alone


@uses(
    Seam("TwinFlowScheduler", touch=Touch.replaced),
    Seam("HostTwinFlowScheduler", touch=Touch.given),
    lost="SimpleTuner's documented import path gives its own scheduler",
)
def offer_scheduler(module: ModuleType) -> None:
    """Make the documented import path give this plugin's scheduler; the host's own is kept as HOSTS_OWN."""
    from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

    set_on(module, HOSTS_OWN, vars(module)["TwinFlowScheduler"])
    set_on(module, "TwinFlowScheduler", TwinFlowScheduler)


@contextmanager
def settled_pipeline_calls(model: Any) -> Iterator[None]:
    """Inside this block the pipeline of a `ModelFoundation` is called with the steps and guidance of a TwinFlow run.

    They also override those that a family sets itself. A network that embeds the guidance scale gets the scale of its
    training: it has never seen scale 0.
    """
    family, network = FAMILIES.get(model.config.model_family), model.get_trained_component(unwrap_model=True)
    for name, value in (family.network_config if family else {}).items():
        if name not in network.config:
            network.register_to_config(**{name: value})
    guiders: list[Any] = []
    update, steps = model.update_pipeline_call_kwargs, options_of(model.config).target_step_count

    def update_pipeline_call_kwargs(pipeline_kwargs: dict) -> dict:
        updated = update(pipeline_kwargs)
        accepted = inspect.signature(model.pipeline.__call__).parameters
        # A scale beside an embedded one has a default above 1 in some pipelines, so it is always passed.
        settled = updated | dict.fromkeys(REAL_GUIDANCE & accepted.keys(), 1.0)
        settled |= dict.fromkeys(GUIDANCE & settled.keys(), 0.0)
        settled |= dict.fromkeys(STEPS & settled.keys(), steps)
        if "guidance_scale" in settled:
            settled["guidance_scale"] = sampling_guidance(model)
        settled |= arguments_of_steps(model, steps)
        if (guider := getattr(model.pipeline, "guider", None)) is not None:
            guider.disable()  # a guider at scale 0 would follow no prompt at all
            guiders.append(guider)
        return settled

    with changed(model, update_pipeline_call_kwargs=update_pipeline_call_kwargs):
        yield
    for guider in guiders:  # which some pipelines share with the base model's benchmark
        guider.enable()


def sampling_guidance(model: Any) -> float:
    """The guidance scale of a pipeline's call: that of training where the network embeds it, else the unguided one."""
    family, network = FAMILIES.get(model.config.model_family), model.get_trained_component(unwrap_model=True)
    if family is None:
        return 0.0
    if family.embeds_guidance and network.config.get("guidance_embeds"):
        return float(model.config.flux_guidance_value)
    return family.unguided_scale


@uses(
    Seam("TwinFlowScheduler", touch=Touch.replaced),
    Seam("SCHEDULER_NAME_MAP", touch=Touch.replaced),
    Seam("Validation.setup_scheduler", ("validation_type",), Touch.read),
    Seam("Validation.run_validations", ("validation_type",)),
    Seam("Evaluation.execute_eval", ("prepare_batch",)),
    Seam("ModelFoundation.update_pipeline_call_kwargs", ("pipeline_kwargs",), Touch.in_block, MODELS),
    Seam("ModelFoundation.model_predict", ("prepared_batch",), Touch.in_block, MODELS),
    Seam("ConfigMixin.register_to_config", touch=Touch.read, module="diffusers.configuration_utils"),
    Seam("FlowMatchEulerDiscreteScheduler", touch=Touch.in_block, module=PIPELINE),
    Seam("config.twinflow_enabled", touch=Touch.in_block),
)
def attach_to_validation(module: ModuleType) -> None:
    """Validate in a few steps, the base-model benchmark as without TwinFlow; evaluate the loss at r = t."""
    from simpletuner.helpers.training import custom_schedule

    # In this module the name is the host's own implementation's; the plugin's scheduler comes from the distiller.
    names = vars(module)
    host_scheduler = getattr(custom_schedule, HOSTS_OWN, names["TwinFlowScheduler"])
    set_on(module, "TwinFlowScheduler", host_scheduler)
    set_on(module, "SCHEDULER_NAME_MAP", names["SCHEDULER_NAME_MAP"] | {"twinflow": host_scheduler})

    def run_validations(wrapped: Callable, validation: Any, args: tuple, kwargs: dict) -> Any:
        if argument(args, kwargs, "validation_type", 1) != "base_model":
            with settled_pipeline_calls(validation.model), own_scheduler(validation.model):
                return wrapped(*args, **kwargs)
        # The host reads this flag for the scheduler, the steps and the guidance of every validation.
        with changed(validation.config, twinflow_enabled=False):
            return wrapped(*args, **kwargs)

    def execute_eval(wrapped: Callable, evaluation: Any, args: tuple, kwargs: dict) -> Any:
        distiller = distiller_of(getattr(argument(args, kwargs, "prepare_batch"), "__self__", None))
        with nullcontext() if distiller is None else distiller.evaluating():
            return wrapped(*args, **kwargs)

    wrap_active(module, "Validation.run_validations", run_validations)
    wrap(module, "Evaluation.execute_eval", execute_eval)
