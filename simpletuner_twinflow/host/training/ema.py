"""The EMA teacher in the host's trainer: its weights in float32, on the student's device if they fit."""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from simpletuner_twinflow.host.run import wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, set_on, uses
from simpletuner_twinflow.host.training.sharded import is_fsdp2

logger = logging.getLogger("simpletuner_twinflow")


@uses(
    Seam("Trainer._place_ema_model", ("self",)),
    Seam("EMAModel.parameter_count", touch=Touch.read, module="simpletuner.helpers.training.ema"),
    Seam("config.weight_dtype", touch=Touch.in_block),
    Seam("config.ema_device", touch=Touch.on_run),
    Seam("EMAModel.shadow_params", touch=Touch.on_run, module="simpletuner.helpers.training.ema"),
)
def attach_to_ema_placement(module: ModuleType) -> None:
    """Keep the EMA weights in float32 and choose their device."""

    def place(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        if trainer.ema_model is None:
            return wrapped(*args, **kwargs)
        config, ema = trainer.config, trainer.ema_model
        if is_fsdp2(trainer.accelerator):  # the host leaves them on the accelerator, in the weights' dtype
            set_on(ema, "shadow_params", [shadow.to(torch.float32) for shadow in ema.shadow_params])
            return wrapped(*args, **kwargs)
        settle_device(config, ema.parameter_count(), trainer.accelerator.device)
        # The host casts the EMA weights to the run's dtype. In bf16 an average at decay 0.99 and above stands still:
        # its steps are smaller than half the distance to the next number.
        with changed(config, weight_dtype=torch.float32):
            return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer._place_ema_model", place)


def settle_device(config: Any, count: int, device: torch.device) -> None:
    """Keep an adapter's EMA, of `count` parameters, on the accelerator; warn of the cost of one on the CPU."""
    if config.model_type == "lora" and config.ema_device != "accelerator" and not config.ema_cpu_only:
        set_on(config, "ema_device", "accelerator")
        logger.info("TwinFlow keeps the adapter's EMA (%s parameters) on %s: it teaches each step.", count, device)
    if (config.ema_cpu_only or config.ema_device != "accelerator") and device.type != "cpu":
        logger.warning(
            "ema_device keeps the EMA teacher of %s parameters on the CPU: TwinFlow copies %.2f GB to the accelerator "
            "for every batch. Set ema_device to accelerator, and ema_cpu_only to false, if its memory allows.",
            f"{count:,}",
            4 * count / 1e9,
        )
