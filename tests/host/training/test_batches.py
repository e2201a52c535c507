"""Copies of a host batch: some of its rows, or the empty prompt in the place of the prompt."""

import pytest
import torch

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.training.batches import (
    EMPTY_PROMPT,
    TEXT,
    on_latents_device,
    refuse_untrained,
    second_half,
    select_rows,
    unconditional,
    without_words,
)

ROWS = 3


def host_batch():
    """Every kind of value that the host's batches have; entry n of row k is 10 n + k."""
    numbered = lambda n: 10.0 * n + torch.arange(ROWS)  # noqa: E731
    return {
        "latents": numbered(1),
        "prompt_embeds": numbered(2),
        "encoder_hidden_states": numbered(3),
        "encoder_attention_mask": numbered(4).to(torch.int64),
        "added_cond_kwargs": {"text_embeds": numbered(5), "time_ids": numbered(6)},
        "prompts": ["a", "b", "c"],
        "pairs": ((0, 1), (2, 3)),
        "sizes": (7, 8, 9),
        "scale": torch.tensor(0.5),
        "shared": torch.arange(ROWS + 2),
        "is_video": False,
        "name": "abc",
        TEXT: {"prompt_embeds": numbered(7), "attention_masks": numbered(8), "pooled_prompt_embeds": numbered(9),
               "time_ids": numbered(6)},
        EMPTY_PROMPT: {"prompt_embeds": -numbered(7).double(), "attention_masks": -numbered(8),
                       "pooled_prompt_embeds": -numbered(9)},
    }  # fmt: skip


def test_rows_are_taken_of_everything_that_has_one_entry_a_row_and_of_nothing_else():
    batch = host_batch()
    found = select_rows(batch, (2, 0, 2, 1))
    at = [2, 0, 2, 1]
    for key in ("latents", "prompt_embeds", "encoder_attention_mask"):
        assert torch.equal(found[key], batch[key][at])
    assert torch.equal(found["added_cond_kwargs"]["text_embeds"], torch.tensor([52.0, 50.0, 52.0, 51.0]))
    assert torch.equal(found[EMPTY_PROMPT]["attention_masks"], torch.tensor([-82.0, -80.0, -82.0, -81.0]))
    assert found["prompts"] == ["c", "a", "c", "b"]
    assert found["sizes"] == (9, 7, 9, 8)
    for key in ("pairs", "scale", "shared", "is_video", "name"):
        assert found[key] is batch[key]


def test_embeddings_go_beside_the_latents_once_and_what_families_read_numbers_from_stays():
    batch = host_batch() | {"latents": torch.empty(ROWS, device="meta")}
    batch["add_text_embeds"] = batch[TEXT]["pooled_prompt_embeds"]
    found = on_latents_device(batch)
    for there in (found, found["added_cond_kwargs"], found[TEXT], found[EMPTY_PROMPT]):
        floats = [it for it in there.values() if isinstance(it, torch.Tensor) and it.is_floating_point() and it.ndim]
        assert floats
        assert all(it.device.type == "meta" for it in floats)
    assert found["add_text_embeds"] is found[TEXT]["pooled_prompt_embeds"]
    for key in ("encoder_attention_mask", "prompts", "sizes", "scale", "shared", "name"):
        assert found[key] is batch[key]
    of_no_rows = torch.zeros(ROWS + 1)
    assert on_latents_device(batch | {"table": of_no_rows})["table"] is of_no_rows
    assert batch["prompt_embeds"].device.type == batch[TEXT]["prompt_embeds"].device.type == "cpu"


def test_other_order_of_all_rows_is_another_batch_and_the_same_is_a_copy():
    batch = host_batch()
    assert select_rows(batch, (1, 2, 0))["prompts"] == ["b", "c", "a"]
    same = select_rows(batch, (0, 1, 2))
    assert same == batch
    assert same is not batch


def test_empty_prompt_takes_the_place_of_every_embedding_and_of_nothing_else():
    batch = host_batch()
    before = {key: value for key, value in batch.items()}
    found = unconditional(batch)
    for key in ("prompt_embeds", "encoder_hidden_states"):
        assert torch.equal(found[key], torch.tensor([-70.0, -71.0, -72.0]))
        assert found[key].dtype == torch.float32  # as what it stands for
    assert found["encoder_attention_mask"].tolist() == [-80, -81, -82]
    assert found["encoder_attention_mask"].dtype == torch.int64
    assert found["added_cond_kwargs"]["text_embeds"].tolist() == [-90.0, -91.0, -92.0]
    assert found["added_cond_kwargs"]["time_ids"] is batch["added_cond_kwargs"]["time_ids"]
    assert found[TEXT]["prompt_embeds"].tolist() == [-70.0, -71.0, -72.0]
    assert found["prompts"] == ["", "", ""]
    assert found[TEXT]["time_ids"] is batch[TEXT]["time_ids"]  # of the image: the empty prompt has none
    assert "add_text_embeds" not in found  # a place that this batch does not have
    assert found["latents"] is batch["latents"]
    assert all(batch[key] is value for key, value in before.items())
    assert torch.equal(batch["added_cond_kwargs"]["text_embeds"], torch.tensor([50.0, 51.0, 52.0]))


def test_empty_prompt_that_lacks_an_embedding_is_refused_by_name():
    batch = host_batch()
    del batch[EMPTY_PROMPT]["pooled_prompt_embeds"]
    with pytest.raises(TwinFlowError, match="lacks pooled_prompt_embeds"):
        unconditional(batch)
    with pytest.raises(TwinFlowError, match="no embedding of the empty prompt"):
        unconditional(batch | {EMPTY_PROMPT: None})


def test_families_own_places_are_filled_too():
    found = unconditional(host_batch() | {"own": torch.zeros(ROWS)}, {"pooled_prompt_embeds": ("own",)})
    assert found["own"].tolist() == [-90.0, -91.0, -92.0]


def test_words_are_emptied_in_a_copy():
    batch = host_batch()
    assert without_words(batch)["prompts"] == ["", "", ""]
    assert batch["prompts"] == ["a", "b", "c"]


def test_rows_are_taken_of_lists_of_what_the_samples_have():
    """Of the samples' entries, and not of lists in an entry, whatever their length."""
    read = [{"layers": [{"k": torch.full((ROWS,), float(row))}] * ROWS} for row in range(ROWS)]
    batch = host_batch() | {TEXT: {"read": read}, EMPTY_PROMPT: {"read": list(reversed(read))}}
    found = select_rows(batch, (2, 0))
    assert [id(entry) for entry in found[TEXT]["read"]] == [id(read[2]), id(read[0])]
    swapped = unconditional(found)
    assert [id(entry) for entry in swapped[TEXT]["read"]] == [id(read[0]), id(read[2])]
    assert swapped["prompts"] == ["", ""]


def test_second_half_takes_the_empty_prompt_and_the_first_keeps_its_own():
    twice = select_rows(host_batch(), (0, 1, 0, 1))
    found, empty = second_half(twice, unconditional(twice)), unconditional(twice)
    assert found["prompts"] == ["a", "b", "", ""]
    assert found["latents"] is twice["latents"]
    for at in (slice(0, 2), slice(2, 4)):
        expected = twice if at.start == 0 else empty
        assert torch.equal(found["encoder_hidden_states"][at], expected["encoder_hidden_states"][at])
        texts = [batch["added_cond_kwargs"]["text_embeds"][at] for batch in (found, expected)]
        assert torch.equal(*texts)
        assert torch.equal(found[TEXT]["attention_masks"][at], expected[TEXT]["attention_masks"][at])


def test_prompts_of_unequal_length_do_not_fit_into_one_batch():
    batch = {"latents": torch.zeros(2), TEXT: {"prompt_embeds": torch.zeros(2, 5)}, "rows": ["a", "b"]}
    assert second_half(batch, batch | {TEXT: {"prompt_embeds": torch.zeros(2, 4)}}) is None
    assert second_half(batch, batch | {"rows": "ab"}) is None
    assert second_half(batch, batch | {TEXT: {"other": torch.zeros(2, 5)}}) is None
    assert second_half(batch, batch | {"rows": ["c", "d"]})["rows"] == ["a", "d"]


def test_batch_with_sound_is_refused():
    refuse_untrained(host_batch() | {"audio_latents": None})
    with pytest.raises(TwinFlowError, match="audio_latents") as refusal:
        refuse_untrained(host_batch() | {"audio_latents": torch.zeros(ROWS)})
    assert "auto_split" in str(refusal.value)


def test_songs_are_no_sound_beside_something_else():
    refuse_untrained(host_batch() | {"audio_latent_batch": torch.zeros(ROWS)}, sings=True)
