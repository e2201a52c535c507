"""Guidance in the targets: its formula, the passes that it takes, the rows and times that it reaches."""

import torch

from simpletuner_twinflow.method.flow import per_sample
from simpletuner_twinflow.method.guidance import guided_velocity
from simpletuner_twinflow.method.losses import squared_error
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows
from tests.method.training_step import ANY, EVERY, FULL, NEAR, ONE, Recorder, batch, losses_of, prepared


def test_guidance_moves_the_velocity_along_the_difference_and_not_at_ratio_zero():
    v, conditional, unconditional = torch.randn(3, 2, 5).unbind(0)
    assert torch.equal(guided_velocity(v, conditional, unconditional, 0.0), v)
    moved = guided_velocity(v, conditional, unconditional, 0.5)
    torch.testing.assert_close(moved - v, 0.5 * (conditional - unconditional))


def test_guidance_moves_the_targets_of_real_rows_by_the_ratio_times_the_difference():
    rows, teacher = prepared(), Recorder()
    near = [row for row, role in enumerate(EVERY) if role is NEAR]
    prediction = torch.zeros_like(rows.x_t)
    for ratio in (0.2, 0.5, 0.8):
        losses = losses_of(rows, prediction, FULL.changed(enhanced_ratio=ratio), teacher=teacher)
        prompts = torch.tensor(near, dtype=torch.float32)[:, None, None]
        guided = rows.velocity[near] + ratio * 0.1 * prompts  # the recorder's prompts differ by 0.1 a row
        torch.testing.assert_close(losses.terms["real_velocity"].total, squared_error(guided, 0 * guided).sum())
    conditional, unconditional = teacher.calls[0], teacher.calls[1]
    real = (0, 2, 3, 4, 5, 7)
    assert conditional[4] == PromptRows(real)
    assert unconditional[4] == PromptRows(real, unconditional=True)
    for x_t, t, r, sign, _, with_grad in (conditional, unconditional):
        assert torch.equal(x_t, rows.x_t[list(real)])
        assert torch.equal(t, rows.t[list(real)])
        assert torch.equal(r, t)
        assert (sign == 1).all()
        assert not with_grad


def test_guidance_also_steers_the_rcgm_targets():
    rows = prepared((ANY,) * 4)
    prediction = torch.randn_like(rows.x_t)
    totals = [
        losses_of(rows, prediction, FULL.changed(enhanced_ratio=ratio, target_clamp=100.0)).terms["rcgm"].total
        for ratio in (0.0, 0.8)
    ]
    assert not torch.isclose(*totals)


def test_guidance_keeps_to_its_range_of_times_ends_included():
    t = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    x, z, _ = batch((NEAR,) * 5)
    options = FULL.changed(enhanced_range=(0.25, 0.75), enhanced_ratio=0.5)
    rows = prepared((NEAR,) * 5, options, data=(x, z, t))

    def teacher(x_t, t, r, sign, condition):
        # Out of range the teacher may say anything.
        outside = per_sample((t < 0.25) | (t > 0.75), like=x_t)
        return torch.where(outside, torch.nan, 0.0 if condition.unconditional else 2.0)

    velocity = rows.velocity.clone()
    velocity[1:4] += 1.0
    expected = squared_error(torch.zeros_like(velocity), velocity).sum()
    losses = losses_of(rows, torch.zeros_like(velocity), options, teacher=lambda *at: teacher(*at).expand_as(at[0]))
    torch.testing.assert_close(losses.terms["real_velocity"].total, expected)


def test_the_teachers_rollout_starts_where_the_guided_velocity_leads():
    """From t = 1 by D = 0.25: `x_s = z - 0.25 (v + 0.5 * 2)` under a teacher whose two fields differ by 2."""
    options = ObjectiveSettings(enhanced_ratio=0.5, delta_t=0.25, estimate_order=1)
    rows = prepared((ONE,), options)
    teacher = Recorder(lambda x, t, r, sign, condition: torch.full_like(x, 0.0 if condition.unconditional else 2.0))
    losses_of(rows, options=options, teacher=teacher)
    x_s, s, r = teacher.calls[-1][:3]
    assert (s.tolist(), r.tolist()) == ([0.75], [0.0])
    torch.testing.assert_close(x_s, rows.z - 0.25 * (rows.z - rows.x + 1.0))
