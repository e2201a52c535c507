"""Passes on some rows under the dropout masks of the pass on all of them."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from simpletuner_twinflow.method.batch_layout import on_whole_batch
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, compute_losses
from simpletuner_twinflow.method.teacher import RngState, replay_rng
from tests.method.training_step import ANY, NEAR, Recorder, batch, prepared

SIZE, WIDTH = 6, 16


class Adapted(nn.Module):
    """A network of its prompt alone, so that its flow is straight, with a real LoRA and its dropout."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        config = LoraConfig(r=4, target_modules=["0", "2"], lora_dropout=dropout, init_lora_weights=False)
        inject_adapter_in_model(config, self.body)
        self.prompts = torch.randn(32, WIDTH)

    def forward(self, x_t, t, r, sign, condition):
        return self.body(self.prompts[list(condition.rows)])


def everyone(size=SIZE):
    return PromptRows(tuple(range(size)))


def asked(rows, like):
    at = list(rows)
    return like[at], torch.rand(len(at)), torch.zeros(len(at)), torch.ones(len(at)), PromptRows(tuple(rows))


@pytest.mark.parametrize("rows", [(1, 4), (4, 1), (0,), (2, 3, 2, 3), (5, 5, 5), tuple(range(SIZE))], ids=str)
def test_rows_have_the_masks_they_have_in_the_whole_batch(rows):
    net, x = Adapted().train(), torch.randn(SIZE, WIDTH)
    rng = RngState.capture()
    whole = net(x, None, None, None, everyone())

    def replayed(*args):
        with replay_rng(rng):
            return net(*args)

    laid_out = on_whole_batch(replayed, SIZE)(*asked(rows, x))
    assert torch.equal(laid_out, whole[list(rows)])
    if rows != tuple(range(SIZE)):
        assert not torch.equal(replayed(*asked(rows, x)), whole[list(rows)])


@pytest.mark.parametrize("rows", [(4, 1), (2, 3, 2, 3), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("unconditional", [False, True])
def test_every_argument_arrives_at_its_row_and_the_result_comes_back_in_order(rows, unconditional):
    count = len(rows)
    x_t, t, r = torch.randn(count, 2, 3), torch.rand(count), torch.rand(count)
    sign = torch.where(torch.arange(count) % 2 == 0, -1.0, 1.0)
    condition = PromptRows(rows, unconditional)
    plain, inner = Recorder(), Recorder()
    laid_out = on_whole_batch(inner, SIZE)(x_t, t, r, sign, condition)
    torch.testing.assert_close(laid_out, plain(x_t, t, r, sign, condition), rtol=0, atol=0)
    assert {call[0].shape[0] for call in inner.calls} == {SIZE}
    assert len(inner.calls) == max(rows.count(row) for row in rows)
    left = [row for row in range(SIZE) if row not in rows]
    for x_all, t_all, r_all, sign_all, *_ in inner.calls:
        assert not any(values[left].any() for values in (x_all, t_all, r_all))
        assert (sign_all[left] == 1).all()


def test_rcgm_target_of_a_straight_flow_is_free_of_dropout_noise():
    """F is constant along the path, so that the residual is F - v, masks and all; one noisy mask would be times 1/D."""
    roles = (ANY, NEAR, ANY, NEAR, ANY, NEAR)
    options = ObjectiveSettings(enhanced_ratio=0.0, target_clamp=100.0)
    rows = prepared(roles, options, data=batch(roles, shape=(WIDTH,)))
    net, rng = Adapted().train(), RngState.capture()
    prediction = net(rows.x_t, rows.t, rows.r, rows.sign, everyone())

    def teacher(*args):
        with replay_rng(rng):
            return net(*args)

    def rcgm(passes):
        losses = compute_losses(rows, lambda: prediction, options, net, passes, torch.Generator())
        return losses.terms["rcgm"].total

    jumps = list(rows.having(ANY))
    exact = (prediction - rows.velocity)[jumps].square().flatten(1).mean(1).sum()
    torch.testing.assert_close(rcgm(on_whole_batch(teacher, len(roles))), exact, rtol=1e-3, atol=0)
    assert rcgm(teacher) > 10 * exact
