"""Nothing in a training step waits for the device."""

import pytest
import torch

from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT, TEXT, select_rows, unconditional
from simpletuner_twinflow.method.objective import training_step
from simpletuner_twinflow.method.transfer import numbers, on_device, row_index
from tests.method.device_waits import Waits
from tests.method.training_step import EVERY, FULL, batch

META = torch.device("meta")


def network(x_t, t, r, sign, condition):
    return 0.5 * x_t


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_free": True},
        {"time_weighting": True, "loss": "barron"},
        {"guidance_reference": "base", "guidance_target": "both"},
    ],
    ids=str,
)
def test_training_step_waits_for_nothing(change):
    x, z, t = (tensor.to(META) for tensor in batch())
    generator = torch.Generator().manual_seed(0)
    with Waits() as waits:
        options, times = FULL.changed(**change), (0.999, 0.6)
        training_step(x, z, t, EVERY, options, network, network, generator, step_times=times, base=network)
    assert not +waits.found


def test_rows_of_a_batch_and_its_empty_prompt_are_taken_without_a_wait():
    embeds, words = torch.zeros(4, 2, device=META), ["a", "b", "c", "d"]
    host_batch = {
        "latents": torch.zeros(4, 3, device=META), "prompts": words, "encoder_hidden_states": embeds,
        TEXT: {"prompt_embeds": embeds}, EMPTY_PROMPT: {"prompt_embeds": torch.zeros(4, 2)},
        "added_cond_kwargs": {"text_embeds": torch.zeros(4, 2, device=META)},
    }  # fmt: skip
    with Waits() as waits:
        found = unconditional(select_rows(host_batch, (3, 1, 1)))
    assert not +waits.found
    assert found["prompts"] == ["", "", ""]
    assert found["encoder_hidden_states"].device == META
    assert found["encoder_hidden_states"].shape == found["added_cond_kwargs"]["text_embeds"].shape == (3, 2)


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: torch.tensor([1, 2], device=META), "tensor from Python"),
        (lambda x: torch.as_tensor([1, 2], device=META), "as_tensor from Python"),
        (lambda x: x.new_tensor(1.0), "new_tensor from Python"),
        (lambda x: torch.zeros(3).to(META), "blocking copy"),
        (lambda x: x.copy_(torch.zeros(4)), "blocking copy"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[0].item(), "_local_scalar_dense"),
    ],
)
def test_each_kind_of_wait_would_be_counted(wait, name):
    x = torch.zeros(4, device=META)
    with Waits() as waits:
        try:
            wait(x)
        except (RuntimeError, NotImplementedError) as error:  # what has no answer without values
            assert "meta" in str(error)  # noqa: PT017
    assert waits.found[name] == 1


@pytest.mark.parametrize("rows", [(0, 1, 2), (2, 3), (1,), (3, 1), (2, 2), (0, 2), ()], ids=str)
def test_row_numbers_index_those_rows(rows):
    x = torch.randn(4, 2)
    found = x[row_index(rows, x.device)]
    assert torch.equal(found, torch.stack([x[row] for row in rows]) if rows else x[:0])
    assert row_index(rows, x.device).dtype == torch.long


def test_numbers_and_tensors_arrive_as_they_are():
    assert torch.equal(numbers((0.1, 0.6), torch.device("cpu")), torch.tensor([0.1, 0.6]))
    x = torch.randn(3)
    assert on_device(x, x.device) is x
    assert on_device(x, META).device == META


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_copy_to_a_device_goes_through_pinned_memory(kind, monkeypatch):
    copies, x = [], torch.zeros(3)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: copies.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking=False: copies.append(non_blocking))
    on_device(x, torch.device(kind))
    assert copies == ["pinned", True]
