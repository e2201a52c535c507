"""Faults of the host that end a run before TwinFlow could train: mended while the flag is on, untouched while it is off.

Each is named in the log when it is met and in docs/families.md.
"""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap


@uses(Seam("ModelFoundation._load_scheduler_for_pipeline", ("pipeline_type",)))
def give_pipelines_their_scheduler(module: ModuleType) -> None:
    """Load the scheduler of a pipeline whose family keeps to its own and has no loader for it.

    The host makes such a pipeline without one to encode prompts with, which ends the run: Sana, Sana-Video, LTX-Video.
    """

    def load_scheduler(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        scheduler = wrapped(*args, **kwargs)
        if scheduler is not None or active_options(model.config) is None:
            return scheduler
        return own_scheduler(model)

    wrap(module, "ModelFoundation._load_scheduler_for_pipeline", load_scheduler)


def own_scheduler(model: Any) -> Any:
    """The scheduler in the folder or repository of the model's pipeline, in the class that its configuration names."""
    import diffusers

    source, revision = model._model_config_path(), model.config.revision
    config = diffusers.FlowMatchEulerDiscreteScheduler.load_config(source, subfolder="scheduler", revision=revision)
    logging.getLogger("simpletuner_twinflow").info(
        "SimpleTuner makes the pipeline of %s without a scheduler, which its class does not allow: taking %s from %s.",
        model.config.model_family,
        config["_class_name"],
        source,
    )
    return getattr(diffusers, config["_class_name"]).from_config(config)
