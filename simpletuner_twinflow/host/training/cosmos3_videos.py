"""Cosmos 3's videos, which the host cannot train by itself.

It encodes their frames as channels, and looks for a prompt under the number of the latents' frames, not the video's.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import log_mending, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, uses, wrap
from simpletuner_twinflow.host.training.cosmos3 import FRAMES, RATE, encodes_sizes, for_frames, frames_of

LOST = "a run of cosmos3 with videos ends in SimpleTuner"


@uses(
    Seam("VAECache.prepare_video_latents", ("samples",)),
    Seam("VAECache.num_video_frames", touch=Touch.read),
    lost=LOST,
)
def encode_frames(module: ModuleType) -> None:
    """Give the VAE a video's frames as frames, as the host does for its other families of videos."""

    def prepare(wrapped: Callable, cache: Any, args: tuple, kwargs: dict) -> Any:
        samples = wrapped(*args, **kwargs)
        if samples.ndim != 5 or not encodes_sizes(cache.model):
            return samples
        if samples.shape[2] == 3:  # (B, F, C, H, W)
            _say(samples.shape[1])
            samples = samples.permute(0, 2, 1, 3, 4)
        return samples[:, :, : cache.num_video_frames or samples.shape[2]]

    wrap(module, "VAECache.prepare_video_latents", prepare)


@uses(
    Seam("Cosmos3Image.text_embed_cache_metadata_for_sample", ("prompt", "latent")),
    Seam("Cosmos3Image._predict_single_sample", ("prompt", "vision_tokens", "fps", "reasoner_cache")),
    Seam("Cosmos3Image._cosmos3_text_cache_signature", ("prompt", "metadata"), Touch.read),
    lost=LOST,
)
def find_prompts(module: ModuleType) -> None:
    """Have a prompt that was encoded for a video's frames found in training, and taken for the sample's."""

    def of_sample(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> dict:
        found = wrapped(*args, **kwargs)
        return for_frames(model, kwargs["prompt"], found, frames_of(int(found[FRAMES])))

    def predict(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        read, (latents, height, width) = kwargs.get("reasoner_cache"), kwargs["vision_tokens"].shape[2:]
        if read is None or latents == 1:
            return wrapped(*args, **kwargs)
        sample = {"cosmos3_height": 16 * height, "cosmos3_width": 16 * width, RATE: float(kwargs["fps"])}
        sample["cosmos3_reasoner_component"] = model._reasoner_component_id()
        sign = model._cosmos3_text_cache_signature
        if read["cache_signature"] == sign(kwargs["prompt"], sample | {FRAMES: frames_of(latents)}):
            # The host compares with the number of latents.
            read = read | {"cache_signature": sign(kwargs["prompt"], sample | {FRAMES: latents})}
        return wrapped(*args, **(kwargs | {"reasoner_cache": read}))

    wrap_active(module, "Cosmos3Image.text_embed_cache_metadata_for_sample", of_sample)
    wrap_active(module, "Cosmos3Image._predict_single_sample", predict)


@cache
def _say(frames: int) -> None:
    """Once, and not for each file."""
    log_mending("%s frames of cosmos3 are encoded as a video", frames)
