"""Copies of a host batch: some of its rows, or the empty prompt for the prompts."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.training.first_frame import has_first_frame
from simpletuner_twinflow.method.transfer import on_device, row_index

EMPTY_PROMPT = "twinflow_empty_prompt"  # batch key: the text encoders' output for the empty prompt, repeated per row
TEXT = "text_encoder_output"  # the host's batch key: the same for the rows' own prompts
SOUND = ("audio_latent_batch", "audio_latents")  # the host's batch keys: of the dataset, and as the network takes it
UNEQUAL = object()  # in place of two values that do not fit together
SIZES = ("batch_time_ids", "time_ids")  # of the image; the host keeps them with the text

# Where the host's `prepare_batch` puts each entry of the text encoders' output; "a.b" is key b of the dict a.
DESTINATIONS = {
    "prompt_embeds": ("prompt_embeds", "encoder_hidden_states"),
    "attention_masks": ("encoder_attention_mask",),
    "pooled_prompt_embeds": ("add_text_embeds", "added_cond_kwargs.text_embeds"),
    "prompt_embeds_2": ("encoder_hidden_states_2",),
    "attention_masks_2": ("encoder_attention_mask_2",),
}


def unconditional(batch: Mapping[str, Any], destinations: Mapping[str, Sequence[str]] = DESTINATIONS) -> dict[str, Any]:
    """A copy of a prepared host batch with the empty prompt's embeddings for the prompts'.

    Args:
        destinations: batch keys to which the family copies each entry of the text encoders' output.

    Raises:
        TwinFlowError: the batch has no embedding of the empty prompt, or lacks an entry that the prompts have.
    """
    empty, given = batch.get(EMPTY_PROMPT), batch.get(TEXT) or {}
    if not empty:
        raise TwinFlowError("The host's batch has no embedding of the empty prompt, which guidance needs.")
    if lacking := [name for name in given if name not in empty and name not in SIZES]:
        raise TwinFlowError(f"The empty prompt's embedding lacks {', '.join(lacking)}, which the prompts' have.")
    swapped = without_words(batch) if batch.get("prompts") else dict(batch)
    swapped[TEXT] = dict(given) | {name: _like(value, given.get(name)) for name, value in empty.items()}
    for name, value in empty.items():
        for path in destinations.get(name, ()):
            folder, _, key = path.rpartition(".")
            entries = (swapped.get(folder) or {}) if folder else swapped
            if key in entries:
                changed = {key: _like(value, entries[key])}
                swapped |= {folder: entries | changed} if folder else changed
    return swapped


def second_half(batch: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first half of a batch's rows, then the second half of another's, which has the same rows in other words.

    Returns: None where a value of one does not fit beside that of the other, as of prompts of unequal length.
    """
    size = batch["latents"].shape[0]

    def joined(own: Any, others: Any) -> Any:
        if own is others:
            return own
        if isinstance(own, Tensor) and isinstance(others, Tensor):
            fits = own.ndim and own.shape == others.shape and own.shape[0] == size and own.dtype == others.dtype
            return torch.cat([own[: size // 2], others[size // 2 :]]) if fits else UNEQUAL
        if isinstance(own, dict) and isinstance(others, dict) and own.keys() == others.keys():
            found = {key: joined(value, others[key]) for key, value in own.items()}
            return UNEQUAL if any(value is UNEQUAL for value in found.values()) else found
        if type(own) is type(others) and isinstance(own, list | tuple) and len(own) == len(others) == size:
            return own[: size // 2] + others[size // 2 :]
        return UNEQUAL

    found = joined(dict(batch), dict(other))
    return None if found is UNEQUAL else found


def without_condition(batch: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A copy of the host batch with zeros at these keys, for a family whose guidance leaves its prompt out so."""
    return dict(batch) | {key: batch[key] * 0 for key in keys}


def without_words(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the host batch with empty prompts, for a family that reads the words when it predicts."""
    return dict(batch) | {"prompts": [""] * len(batch["prompts"])}


def refuse_untrained(batch: Mapping[str, Any], *, beside_silence: bool = False, sings: bool = False) -> None:
    """Raise where a prepared host batch has what TwinFlow would leave out of its losses.

    Args:
        beside_silence: whether the host puts silence in the place of sound, where there is none.
        sings: whether sound is what the family makes.

    Raises:
        TwinFlowError: it holds sound, or of each sample a first frame without noise and nothing else.
    """
    keys = () if sings else SOUND[:1] if beside_silence else SOUND
    if found := [key for key in keys if batch.get(key) is not None]:
        raise TwinFlowError(
            f"The batch has {' and '.join(found)}, and TwinFlow trains no sound: no dataset of this run may have any. "
            'Set "auto_split" in each dataset\'s "audio" to false, and remove audio datasets and s2v_datasets.'
        )
    if has_first_frame(batch) and batch["latents"].shape[2] == 1:
        raise TwinFlowError(
            "The batch is of pictures, and a network of its kind is given the first frame of each sample without "
            "noise, so that there is nothing to train. Use datasets of videos with more than one frame, or a "
            "model_flavour without a first frame."
        )


def _like(value: Any, counterpart: Any) -> Any:
    """The value on the device and in the dtype of what it replaces."""
    if isinstance(value, Tensor) and isinstance(counterpart, Tensor):
        return on_device(value, counterpart.device).to(counterpart.dtype)
    return value


def on_latents_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a prepared host batch with the rows' embeddings and pixels beside its latents, copied without waiting.

    The host leaves some of them on the CPU and copies them in each forward pass, which waits for the device: once a
    step in plain training, once a pass in TwinFlow. Integers stay, since families read lengths and sizes from them.
    """
    latents = batch["latents"]
    if latents.device.type == "cpu":
        return dict(batch)
    copied: dict[int, Tensor] = {}  # one tensor may stand under several keys

    def copy(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copy(item) for key, item in value.items()}
        if not isinstance(value, Tensor) or value.device.type != "cpu" or not value.is_floating_point():
            return value
        if value.ndim == 0 or value.shape[0] != latents.shape[0]:
            return value
        if id(value) not in copied:
            copied[id(value)] = on_device(value, latents.device)
        return copied[id(value)]

    return {key: copy(value) for key, value in batch.items()}


def select_rows(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The host batch with these rows, in this order, repetitions included."""
    size = batch["latents"].shape[0]
    if tuple(rows) == tuple(range(size)):
        return dict(batch)
    index = cache(lambda device: row_index(rows, device))

    def select(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index(value.device)] if value.ndim and value.shape[0] == size else value
        if isinstance(value, dict):
            return {key: select(item) for key, item in value.items()}
        if type(value) in (list, tuple) and len(value) == size:
            return type(value)(value[row] for row in rows)
        return value

    return {key: select(value) for key, value in batch.items()}
