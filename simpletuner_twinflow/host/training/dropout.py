"""Adapters train without dropout, as with the host's distillers.

RCGM divides the difference between student and teacher by delta_t; dropout puts noise into that difference.
"""

import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import active_options, argument
from simpletuner_twinflow.host.seams import Seam, Touch, set_on, uses, wrap

KEPT_BY = "SIMPLETUNER_LORA_DROPOUT_FORCE_ENABLED"  # the host's own switch

logger = logging.getLogger("simpletuner_twinflow")


@uses(Seam("safety_check", ("args", "accelerator")), Seam("config.lora_dropout", touch=Touch.on_run))
def attach_to_safety_check(module: ModuleType) -> None:
    """Set lora_dropout to 0 where the host does it for a distillation method."""

    def safety_check(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        config = argument(args, kwargs, "args")
        if active_options(config) is not None and config.model_type == "lora":
            without_dropout(config)
        return wrapped(*args, **kwargs)

    wrap(module, "safety_check", safety_check)


def without_dropout(config: Any) -> None:
    """Set the host's lora_dropout to 0, unless its switch keeps the value; log which."""
    if not config.lora_dropout:
        return
    if os.environ.get(KEPT_BY, "").strip().lower() in ("1", "true", "yes", "on"):
        logger.warning(
            f"lora_dropout stays {config.lora_dropout} because {KEPT_BY} is set: it puts noise into TwinFlow's targets."
        )
        return
    logger.warning(
        f"lora_dropout is {config.lora_dropout} and becomes 0, as under SimpleTuner's distillers: dropout puts noise "
        f"into TwinFlow's targets. {KEPT_BY}=1 keeps it."
    )
    set_on(config, "lora_dropout", 0.0)
