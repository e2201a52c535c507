"""Which passes a step makes in the host's trainer, in which order, and on which rows."""

import pytest
import torch
from accelerate.utils import DynamoBackend

from testbed.host_models.flow import host_batch

EMPTY_LAST = ("a", "b", "c", "")


@pytest.fixture
def made(make_trainer):
    """A trainer whose batches of four have near rows alone, of which every fourth is guided, with their turn."""

    def make(**changes):
        shares = {"near": 3, "any_step": 1} if changes.pop("jumps", False) else {"near": 1}
        off = {"twinflow_adversarial_enabled": False}
        return make_trainer(twinflow_role_shares=shares, twinflow_enhanced_ratio=0.5, **off, **changes)

    return make


def prepared(trainer, batch, step=0):
    return trainer.distiller.prepare_batch(batch, trainer.model, {"global_step": step})


def loss_and_passes(trainer, batch):
    """The loss of a prepared batch, and its passes: rows, and whether with gradient."""
    calls, predict = [], trainer.model.model_predict

    def model_predict(prepared_batch, *args, **kwargs):
        calls.append((len(prepared_batch["noisy_latents"]), torch.is_grad_enabled()))
        return predict(prepared_batch, *args, **kwargs)

    trainer.model.model_predict = model_predict
    try:
        return trainer.distiller.training_loss(batch)[0], calls
    finally:
        trainer.model.model_predict = predict


def test_guidance_asks_for_both_prompts_in_one_pass_before_the_one_with_gradient(made, batch):
    trainer = made()
    assert loss_and_passes(trainer, prepared(trainer, batch))[1] == [(2, False), (4, True)]


def test_one_pass_for_both_prompts_gives_the_loss_of_two(made, batch, monkeypatch):
    trainer = made()
    rows = prepared(trainer, batch)
    loss, _ = loss_and_passes(trainer, rows)
    monkeypatch.setattr(trainer.distiller.family_model, "takes_both", lambda batch: False)
    again, calls = loss_and_passes(trainer, rows)
    assert calls == [(1, False), (1, False), (4, True)]
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=0)


def test_row_without_a_caption_takes_no_pass_of_guidance_when_its_turn_comes(made):
    trainer = made()
    batch = host_batch(trainer.model, EMPTY_LAST)
    passes = [loss_and_passes(trainer, prepared(trainer, batch, step))[1] for step in range(4)]
    assert passes == [[(2, False), (4, True)]] * 3 + [[(4, True)]]


def test_compiled_network_is_asked_for_the_pass_with_gradient_first(made, batch, monkeypatch):
    trainer = made()
    rows = prepared(trainer, batch)
    expected, _ = loss_and_passes(trainer, rows)
    monkeypatch.setattr(trainer.accelerator.state.dynamo_plugin, "backend", DynamoBackend.EAGER)
    loss, calls = loss_and_passes(trainer, rows)
    assert calls == [(4, True), (2, False)]
    torch.testing.assert_close(loss, expected)


def test_rollout_comes_before_the_pass_with_gradient(made, batch):
    trainer = made(jumps=True)
    _, calls = loss_and_passes(trainer, prepared(trainer, batch))
    assert calls[-3:] == [(1, False), (1, False), (4, True)]  # a rollout of order 2
