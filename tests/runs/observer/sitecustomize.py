"""Writes down what a run of the host does, for the tests to read; changes nothing of it.

Put on PYTHONPATH of a test's subprocess. Each event is a line of JSON in the file that OBSERVER_FILE names, with the
process's rank in the place of {rank}.
"""

import json
import os
import runpy
from pathlib import Path

import wrapt

runpy.run_path(str(Path(__file__).parents[3] / "demo/cpu/sitecustomize.py"))


def note(**event):
    name = os.environ["OBSERVER_FILE"].replace("{rank}", os.environ.get("RANK", "0"))
    with open(name, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def readable(value):
    if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1:
        value = value.item()
    return value if isinstance(value, int | float | str | type(None)) else type(value).__name__


def before(path, describe):
    """Note what `describe` makes of each call of `path`, then let it run."""

    def watch(module):
        def call(wrapped, instance, args, kwargs):
            event = describe(instance, args, kwargs)
            if event is not None:
                note(**event)
            return wrapped(*args, **kwargs)

        wrapt.wrap_function_wrapper(module, path, call)

    return watch


def logged(accelerator, args, kwargs):
    values = args[0] if args else kwargs["values"]
    return {
        "kind": "log",
        "step": kwargs.get("step"),
        "values": {key: readable(value) for key, value in values.items()},
    }


def scheduler_step(scheduler, args, kwargs):
    return {"kind": "scheduler", "class": f"{type(scheduler).__module__}.{type(scheduler).__name__}"}


def pipeline_call(pipeline, args, kwargs):
    return {"kind": "pipeline", "steps": kwargs["num_inference_steps"], "guidance": kwargs["guidance_scale"]}


def validation(instance, args, kwargs):
    return {"kind": "validation", "type": args[1] if len(args) > 1 else kwargs.get("validation_type")}


for module, path, describe in [
    ("accelerate.accelerator", "Accelerator.log", logged),
    (
        "diffusers.schedulers.scheduling_flow_match_euler_discrete",
        "FlowMatchEulerDiscreteScheduler.step",
        scheduler_step,
    ),
    ("simpletuner_twinflow.sampling.flow_scheduler", "TwinFlowScheduler.step", scheduler_step),
    ("simpletuner.helpers.models.sd3.pipeline", "StableDiffusion3Pipeline.__call__", pipeline_call),
    ("simpletuner.helpers.training.validation", "Validation.run_validations", validation),
    (
        "simpletuner.helpers.models.common",
        "ModelFoundation._compute_twinflow_losses",
        lambda *_: {"kind": "host_twinflow"},
    ),
    ("simpletuner.helpers.models.common", "ModelFoundation.load_model", lambda *_: {"kind": "load_model"}),
]:
    wrapt.register_post_import_hook(before(path, describe), module)


def run_given_code():
    """A test's own change to the host, e.g. to take a seam away."""
    exec(os.environ.get("OBSERVER_CODE", ""), globals())


run_given_code()
