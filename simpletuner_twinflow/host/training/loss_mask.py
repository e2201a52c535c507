"""The weights that a run's mask images give to the parts of a picture, as SimpleTuner's own loss applies them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from simpletuner_twinflow.errors import TwinFlowError

KINDS = ("mask", "segmentation")


def loss_mask(batch: Mapping[str, Any], probability: float, generator: torch.Generator) -> Tensor | None:
    """The weight of each squared error, (B, 1, H, W) float32 in [0, 1]; None where all count alike.

    A "mask" weighs by its first channel, black 0 and white 1; a "segmentation" takes all that is not black. As the host
    does it, the mean is taken over the whole picture, what is masked included.

    Args:
        batch: the host's, with "latents" (B, C, H, W).
        probability: with which a segmentation is applied to a batch at all (`masked_loss_probability`).
        generator: draws whether it is, on the CPU.

    Raises:
        TwinFlowError: the latents are not those of pictures.
    """
    kind = batch.get("loss_mask_type") or batch.get("conditioning_type")
    if kind not in KINDS:
        return None
    latents, pixels = batch["latents"], batch["conditioning_pixel_values"]
    if latents.ndim != 4:
        raise TwinFlowError(
            f"The data has a mask dataset, and this model's latents have the shape {tuple(latents.shape)}: a masked "
            "loss is for pictures, (B, C, H, W). Remove the mask dataset."
        )
    if kind == "segmentation" and probability < 1 and float(torch.rand((), generator=generator)) >= probability:
        return None
    pixels = pixels.to(device=latents.device, dtype=torch.float32)
    grey = pixels[:, :1] if kind == "mask" else pixels.sum(dim=1, keepdim=True) / 3
    weights = interpolate(grey, size=latents.shape[2:], mode="area") / 2 + 0.5
    return weights if kind == "mask" else (weights > 0).float()


def probability_of(config: Any) -> float:
    """The host's `masked_loss_probability`; 1 where it is not set."""
    value = getattr(config, "masked_loss_probability", None)
    return 1.0 if value is None or math.isnan(float(value)) else float(value)
