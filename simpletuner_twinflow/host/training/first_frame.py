"""The first frame that a family's network is given without noise in each pass: a picture, of which a film is made.

The host puts it into the noised latents once a batch. TwinFlow's passes are at other noise and other times, so that
each has it put in anew. The network predicts nothing there, and the host's loss leaves it out, as each of TwinFlow's
terms does.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PICTURE = "conditioning_latents"  # the host's batch key: of the picture, (B, C, F, H, W), of which the first is taken
COUNTED = "vision_loss_mask"  # the host's batch key: 0 at the first frame, 1 elsewhere, (B, 1, F, H, W)


def has_first_frame(batch: Mapping[str, Any]) -> bool:
    """Whether each sample of a prepared host batch has a first frame without noise."""
    return batch.get(COUNTED) is not None


def with_first_frame(batch: Mapping[str, Any], x: Tensor) -> Tensor:
    """x, (B, C, F, H, W), with the batch's first frame in the place of its own; x itself where there is none."""
    if not has_first_frame(batch):
        return x
    return torch.cat([batch[PICTURE][:, :, :1].to(x.dtype), x[:, :, 1:]], dim=2)


def frame_weights(batch: Mapping[str, Any]) -> Tensor | None:
    """The weights of the squared errors, of the latents' shape: a sample's mean is that of the other frames.

    None without a first frame. A batch of pictures alone is refused before: see `batches.refuse_untrained`.
    """
    if not has_first_frame(batch):
        return None
    counted = batch[COUNTED].float()
    share = counted.mean(dim=tuple(range(1, counted.ndim)), keepdim=True)
    return (counted / share).expand_as(batch["latents"])
