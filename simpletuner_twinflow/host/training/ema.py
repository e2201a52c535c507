"""The EMA teacher in the host's trainer: its shadows in float32, on the device that the student is on."""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from simpletuner_twinflow.host.run import wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, set_on, uses

logger = logging.getLogger("simpletuner_twinflow")


@uses(
    Seam("Trainer._place_ema_model", ("self",)),
    Seam("EMAModel.parameter_count", touch=Touch.read, module="simpletuner.helpers.training.ema"),
    Seam("config.weight_dtype", touch=Touch.in_block),
    Seam("config.ema_device", touch=Touch.on_run),
)
def attach_to_ema_placement(module: ModuleType) -> None:
    """Place the shadows of a TwinFlow run where a teacher needs them."""

    def place(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        if trainer.ema_model is None:
            return wrapped(*args, **kwargs)
        config = trainer.config
        settle_device(config, trainer.ema_model.parameter_count(), trainer.accelerator.device)
        # The host casts the shadows to the run's dtype. In bf16 an average at decay 0.99 and above stands still: its
        # steps are smaller than half the distance to the next number.
        with changed(config, weight_dtype=torch.float32):
            return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer._place_ema_model", place)


def settle_device(config: Any, count: int, device: torch.device) -> None:
    """Keep an adapter's shadows on the accelerator, and say what a full model's cost on the CPU.

    Args:
        config: the host's.
        count: of the averaged parameters.
        device: the accelerator's.
    """
    if config.ema_device == "accelerator" or config.ema_cpu_only:
        on_cpu = config.ema_cpu_only
    elif config.model_type == "lora":
        set_on(config, "ema_device", "accelerator")
        on_cpu = False
        logger.info("TwinFlow keeps the adapter's EMA (%s parameters) on the accelerator: it teaches each step.", count)
    else:
        on_cpu = True
    if on_cpu and device.type != "cpu":
        logger.warning(
            "ema_device keeps the EMA teacher of %s parameters on the CPU: TwinFlow copies %.2f GB to the accelerator "
            "for every batch. Set ema_device to accelerator, and ema_cpu_only to false, if its memory allows.",
            f"{count:,}",
            4 * count / 1e9,
        )
