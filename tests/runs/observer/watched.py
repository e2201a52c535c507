"""The events that are noted of every run; nothing of the run is changed."""

from typing import Any

from probes.events import before


def watch() -> None:
    """Note log lines, scheduler steps, pipeline calls, validations, the host's own TwinFlow, and a model's loading."""
    euler = "diffusers.schedulers.scheduling_flow_match_euler_discrete"
    models = "simpletuner.helpers.models.common"
    before("accelerate.accelerator", "Accelerator.log", logged)
    before(euler, "FlowMatchEulerDiscreteScheduler.step", scheduler_step)
    before("simpletuner_twinflow.sampling.flow_scheduler", "TwinFlowScheduler.step", scheduler_step)
    before("simpletuner.helpers.models.sd3.pipeline", "StableDiffusion3Pipeline.__call__", pipeline_call)
    before("simpletuner.helpers.training.validation", "Validation.run_validations", validation)
    before(models, "ModelFoundation._compute_twinflow_losses", lambda *_: {"kind": "host_twinflow"})
    before(models, "ModelFoundation.load_model", lambda *_: {"kind": "load_model"})


def logged(accelerator: Any, args: tuple, kwargs: dict) -> dict:
    """What is logged at a step."""
    values = args[0] if args else kwargs["values"]
    return {
        "kind": "log",
        "step": kwargs.get("step"),
        "values": {key: readable(value) for key, value in values.items()},
    }


def readable(value: Any) -> Any:
    """A number or a text as itself, anything else as the name of its class."""
    if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1:
        value = value.item()
    return value if isinstance(value, int | float | str | type(None)) else type(value).__name__


def scheduler_step(scheduler: Any, args: tuple, kwargs: dict) -> dict:
    """Which scheduler makes a step."""
    return {"kind": "scheduler", "class": f"{type(scheduler).__module__}.{type(scheduler).__name__}"}


def pipeline_call(pipeline: Any, args: tuple, kwargs: dict) -> dict:
    """How a pipeline is asked to draw."""
    return {"kind": "pipeline", "steps": kwargs["num_inference_steps"], "guidance": kwargs["guidance_scale"]}


def validation(instance: Any, args: tuple, kwargs: dict) -> dict:
    """Which validation begins."""
    return {"kind": "validation", "type": args[1] if len(args) > 1 else kwargs.get("validation_type")}
