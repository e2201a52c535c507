"""Cosmos 3's prompts, which it encodes for the size of a picture: the empty one too, for guidance and dropped captions.

The host encodes the captions of a dataset for their pictures' sizes, and the empty prompt for none, which raises. A
video's prompt also names its frames and their rate: here those that are encoded, at the configuration's rate, as where
the pipeline draws.
"""

import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from simpletuner_twinflow.host.run import active_options, argument, wrap_active
from simpletuner_twinflow.host.seams import STATE, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.settings.families import FAMILIES

TEXT_CACHE = "simpletuner.helpers.caching.text_embeds"
SIGNATURE = "cosmos3_cache_signature"  # in the host's metadata of a prompt: of its words and its picture's size
FRAMES, RATE = "cosmos3_num_frames", "cosmos3_fps"  # there too
PER_LATENT = 4  # frames of a video, after its first
LOST = "cosmos3 has no empty prompt, so that it trains without guidance and without dropped captions"
_one_at_a_time = threading.Lock()
_sizes: "WeakKeyDictionary[Any, dict[str, dict]]" = WeakKeyDictionary()  # model -> the empty prompt's metadata


@uses(
    Seam("TextEmbeddingCache.encode_dropout_caption", ("self",)),
    lost=LOST,
)
def encode_no_prompt_without_size(module: ModuleType) -> None:
    """Leave out the host's empty prompt of no size; `supply_empty_prompts` has those of the pictures' sizes."""

    def encode_dropout_caption(wrapped: Callable, cache: Any, args: tuple, kwargs: dict) -> None:
        if not encodes_sizes(cache.model):
            wrapped(*args, **kwargs)

    wrap(module, "TextEmbeddingCache.encode_dropout_caption", encode_dropout_caption)


@uses(
    Seam("Cosmos3Image.text_embed_cache_metadata_for_filepath", ("prompt",)),
    Seam("Cosmos3Image.after_text_embed_cache_precompute", ("self",)),
    Seam("Cosmos3Image._cosmos3_text_cache_signature", ("prompt", "metadata"), Touch.read),
    Seam("Cosmos3Image._predict_single_sample", ("vision_tokens", "vision_timestep"), Touch.in_block),
    lost=LOST,
)
def encode_empty_prompts(module: ModuleType) -> None:
    """Encode the empty prompt for each size of a dataset, after its captions, while the text encoder is in memory."""

    def metadata_for_filepath(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> dict:
        found = wrapped(*args, **kwargs)
        frames = frames_of((int(found[FRAMES]) - 1) // PER_LATENT + 1)  # those that make whole latents
        empty = for_frames(model, "", found, frames)
        _sizes.setdefault(model, {})[empty[SIGNATURE]] = empty
        return for_frames(model, argument(args, kwargs, "prompt"), found, frames)

    def after_precompute(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> None:
        options = active_options(model.config)
        dropped = float(model.config.caption_dropout_probability or 0) > 0
        if dropped or (options is not None and options.scale > 1):
            for metadata in _sizes.pop(model, {}).values():
                empty_prompt(metadata)
        wrapped(*args, **kwargs)

    wrap_active(module, "Cosmos3Image.text_embed_cache_metadata_for_filepath", metadata_for_filepath)
    wrap_active(module, "Cosmos3Image.after_text_embed_cache_precompute", after_precompute)


@uses(
    Seam("compute_single_embedding", ("prompt_entry", "model")),
    Seam("StateTracker.get_default_text_embed_cache", touch=Touch.read, module=STATE),
    Seam("TextEmbeddingCache.text_cache_ondemand", touch=Touch.in_block, module=TEXT_CACHE),
    Seam("TextEmbeddingCache.compute_prompt_embeddings_with_model", ("prompt_records",), Touch.read, TEXT_CACHE),
    lost=LOST,
)
def supply_empty_prompts(module: ModuleType) -> None:
    """Have the collator find the empty prompt of a picture's size, and encode it where it is the first."""

    def embedding(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        entry, model = argument(args, kwargs, "prompt_entry"), argument(args, kwargs, "model", 2)
        metadata = entry.get("metadata") or {} if isinstance(entry, dict) else {}
        if not encodes_sizes(model) or SIGNATURE not in metadata or entry.get("prompt"):
            return wrapped(*args, **kwargs)
        found = empty_prompt(metadata)
        model.after_text_embed_cache_precompute()
        return found

    wrap(module, "compute_single_embedding", embedding)


def empty_prompt(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the text encoder makes of the empty prompt for a picture, from the host's text cache, one entry a size.

    Args: metadata: the host's of an empty prompt.
    """
    from simpletuner.helpers.training.state_tracker import StateTracker

    cache = StateTracker.get_default_text_embed_cache()
    record = {"prompt": "", "key": f"twinflow:empty:{metadata[SIGNATURE]}", "metadata": dict(metadata)}
    with _one_at_a_time, changed(cache, text_cache_ondemand=True):
        found: dict[str, Any] = cache.compute_prompt_embeddings_with_model(prompt_records=[record])
    return found


def frames_of(latents: int) -> int:
    """The frames of a video that this many frames of latents stand for."""
    return PER_LATENT * (latents - 1) + 1


def for_frames(model: Any, prompt: str, metadata: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """The host's metadata of a prompt, for this many frames at the configuration's rate, signed anew."""
    named = dict(metadata) | {FRAMES: frames, RATE: float(model.config.framerate or 24.0)}
    return named | {SIGNATURE: model._cosmos3_text_cache_signature(prompt, named)}


def encodes_sizes(model: Any) -> bool:
    """Whether this is the model of a TwinFlow run whose prompts are encoded for a size."""
    if model is None or active_options(model.config) is None:
        return False
    family = FAMILIES.get(model.config.model_family)
    return family is not None and family.prompt_has_size
