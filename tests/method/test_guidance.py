"""Guidance in the targets: its formula, the passes that it takes, the rows and times that it reaches."""

import math
from dataclasses import replace

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import per_sample
from simpletuner_twinflow.method.guidance import guided_every, guided_velocities, guided_velocity
from simpletuner_twinflow.method.losses import rectify_target, squared_error
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
    options = ObjectiveSettings(enhanced_ratio=0.5, guidance_reference="ema", delta_t=0.25, estimate_order=1)
    rows = prepared((ONE,), options)
    teacher = Recorder(lambda x, t, r, sign, condition: torch.full_like(x, 0.0 if condition.unconditional else 2.0))
    losses_of(rows, options=options, teacher=teacher)
    x_s, s, r = teacher.calls[-1][:3]
    assert (s.tolist(), r.tolist()) == ([0.75], [0.0])
    torch.testing.assert_close(x_s, rows.z - 0.25 * (rows.z - rows.x + 1.0))


BASE = FULL.changed(guidance_reference="base")


def field(x_t, t, r, sign, condition):
    """A base whose prompted field is not its unprompted one, by other amounts in other places."""
    shift = torch.tensor([0.0 if condition.unconditional else 1.0 + row for row in condition.rows])
    return 0.3 * x_t + per_sample(t, like=x_t) * per_sample(shift, like=x_t) * x_t.cos()


ROUND = math.lcm(*guided_every(BASE))


def fields_of(rows):
    """The base's velocities of all rows, with their prompts and without."""
    everyone = tuple(range(len(rows.roles)))
    return [field(rows.x_t, rows.t, rows.t, None, PromptRows(everyone, empty)) for empty in (False, True)]


def in_turn(rows, options, **networks):
    """Each turn's velocities of all rows, as many turns as it takes for the rows that are guided to go round."""
    found = [guided_velocities(rows, options, field, field, turn=turn, **networks)[0] for turn in range(ROUND)]
    return torch.stack(found)


@pytest.mark.parametrize("scale", [1.5, 2.0, 5.0])
def test_where_the_data_are_the_bases_own_its_guided_field_is_the_one_without_a_gradient(scale):
    """`B_c + (w - 1)(B_c - B_u) = B_u + w (B_c - B_u)`, in the mean of the turns."""
    options = BASE.changed(guidance_scale=scale)
    rows = prepared((NEAR,) * 4, options)
    conditional, unconditional = fields_of(rows)
    rows = replace(rows, velocity=conditional)
    guided = unconditional + scale * (conditional - unconditional)
    for prediction, smallest, largest in ((guided, 0, 1e-5), (guided + 0.1, 0.04, 1e9), (conditional, 0.04, 1e9)):
        prediction = prediction.clone().requires_grad_()
        for turn in range(ROUND):
            (losses_of(rows, prediction, options, base=field, turn=turn).total / ROUND).backward()
        assert smallest <= prediction.grad.norm() <= largest


def test_base_is_asked_for_both_fields_of_the_rows_in_turn_and_the_teacher_for_its_rollout_alone():
    rows, guided = prepared(), []
    for turn in range(ROUND):
        teacher, base = Recorder(), Recorder()
        losses_of(rows, options=BASE, teacher=teacher, base=base, turn=turn)
        real = base.calls[0][4].rows
        assert [call[4] for call in base.calls] == [PromptRows(real), PromptRows(real, unconditional=True)]
        assert not any(call[4].unconditional for call in teacher.calls)
        for x_t, t, r, sign, _, with_grad in base.calls:
            assert torch.equal(x_t, rows.x_t[list(real)])
            assert torch.equal(r, t)
            assert (sign == 1).all()
            assert not with_grad
        guided.append(real)
    assert guided == [(3, 0, 5), (4, 2, 7), (0, 5), (2, 7)]  # near: 3 and 4; jumps: 0, 2, 5 and 7


def recorded(rows, turn, **how):
    base = Recorder(both_fields)
    found = guided_velocities(rows, BASE, field, base, turn=turn, **how)
    return found, [call[4] for call in base.calls]


def both_fields(x_t, t, r, sign, condition):
    """`field`, also of rows half of which have the empty prompt."""
    if not condition.half_unconditional:
        return field(x_t, t, r, sign, condition)
    halves, prompts = zip(x_t.chunk(2), t.chunk(2), strict=True), condition.rows[: len(x_t) // 2]
    return torch.cat([field(*half, r, sign, PromptRows(prompts, empty)) for empty, half in enumerate(halves)])


def test_one_call_for_both_prompts_gives_what_two_give_where_it_has_no_more_rows_than_the_batch():
    rows = prepared()
    for turn in range(ROUND):
        (apart, count), two = recorded(rows, turn)
        (together, same), one = recorded(rows, turn, together=lambda: True)
        assert torch.equal(apart, together)
        assert count == same
        [chosen, _] = [prompts.rows for prompts in two]
        assert one == [PromptRows(chosen + chosen, half_unconditional=True)]
    few = prepared((ONE,))
    assert len(recorded(few, 0, together=lambda: True)[1]) == 2


def test_rows_without_a_prompt_are_not_guided_and_the_others_as_before():
    """Between the guide's two fields there is nothing then, so that the expectation is the same."""
    rows = prepared()
    for turn in range(ROUND):
        (everyone, count), [prompts, _] = recorded(rows, turn)
        [left, *others] = prompts.rows
        (found, fewer), asked = recorded(rows, turn, unprompted=(left, 1))
        assert fewer == count - 1
        assert [prompts.rows for prompts in asked] == [tuple(others)] * 2
        assert torch.equal(found[left], rows.velocity[left])
        assert torch.equal(found[others], everyone[others])
    assert recorded(rows, 0, unprompted=range(8)) == ((rows.velocity, 0), [])
    (unguided, count), asked = recorded(rows, 0, unprompted=range(8), elsewhere=(NEAR,))
    assert torch.equal(unguided, rows.velocity)
    assert count == 0  # the two passes on another rank's account
    assert len(asked) == 2


@pytest.mark.parametrize("rows_of_each", [1, 2, 3, 4, 5, 8])
def test_the_rows_that_are_guided_stand_for_those_that_are_not(rows_of_each):
    rows = prepared((*[NEAR] * rows_of_each, *[ONE] * rows_of_each), BASE)
    conditional, unconditional = fields_of(rows)
    weights = ((in_turn(rows, BASE) - rows.velocity) / (conditional - unconditional)).flatten(2).mean(2)
    torch.testing.assert_close(weights.mean(dim=0), torch.ones(2 * rows_of_each).to(weights))
    near, jumps = (weights > 0).sum(dim=0).split(rows_of_each)
    assert set(near.tolist()) == {ROUND // 4}
    assert set(jumps.tolist()) == {ROUND // 2}


def test_of_a_loss_whose_gradient_is_not_linear_each_row_is_guided():
    rows = prepared((NEAR, ONE, NEAR, ANY), BASE)
    conditional, unconditional = fields_of(rows)
    guided, count = guided_velocities(rows, BASE.changed(loss="barron"), field, field, turn=1)
    torch.testing.assert_close(guided, rows.velocity + conditional - unconditional)
    assert count == 4


def test_base_keeps_to_the_range_of_times():
    options = BASE.changed(enhanced_range=(0.25, 0.75))
    rows = prepared((NEAR,) * 3, options, data=(*batch((NEAR,) * 3)[:2], torch.tensor([0.1, 0.5, 0.9])))
    conditional, unconditional = fields_of(rows)
    target = rows.velocity.clone()
    target[1] += (conditional - unconditional)[1]
    torch.testing.assert_close(in_turn(rows, options).mean(dim=0), target)


def rectified(options, student, **networks):
    """The rectify loss of three one-step rows by the step, and by the formula with these noised samples' guidance."""
    rows = prepared((ONE,) * 3, options)
    prediction = torch.randn_like(rows.x_t)
    found = losses_of(rows, prediction, options, student=student, **networks).terms["rectify"].total
    return found, prediction, student.calls[-1]


@pytest.mark.parametrize(("reference", "target"), [("base", "rectify"), ("base", "both"), ("ema", "rectify")])
def test_rectify_goes_along_the_twins_velocity_less_the_guided_real_one(reference, target):
    """`g = twin - real - (w - 1)(B_c - B_u)` on the noised generated samples, at r = t."""
    options = FULL.changed(guidance_reference=reference, guidance_target=target, guidance_scale=1.3)
    student, guide = Recorder(), Recorder(field)
    networks = {"base": guide} if reference == "base" else {"base": None, "teacher": guide}
    found, prediction, (x_twice, t_twice, *_) = rectified(options, student, **networks)
    x_t, t = x_twice[:3], t_twice[:3]
    prompts = PromptRows((0, 1, 2))
    twin, real = (Recorder()(x_t, t, t, sign * torch.ones(3), prompts) for sign in (-1, 1))
    conditional, unconditional = (field(x_t, t, t, None, PromptRows((0, 1, 2), empty)) for empty in (False, True))
    g = twin - real - 0.3 * (conditional - unconditional)
    torch.testing.assert_close(found, squared_error(prediction, rectify_target(prediction, g)).sum())
    assert not torch.isclose(found, squared_error(prediction, rectify_target(prediction, twin - real)).sum())
    assert all(torch.equal(call[0], x_t) for call in guide.calls[-2:])


@pytest.mark.parametrize(("target", "guided"), [("velocity", True), ("rectify", False), ("both", True)])
def test_velocities_are_guided_unless_rectify_alone_is(target, guided):
    options = BASE.changed(guidance_target=target)
    rows = prepared((NEAR,) * 4, options)
    loss = losses_of(rows, rows.velocity, options, base=field).terms["real_velocity"].total
    assert (loss.item() > 0) == guided


def test_reference_that_is_not_settled_or_not_there_is_refused_where_guidance_is_on():
    rows = prepared((NEAR,) * 2)
    with pytest.raises(TwinFlowError, match='guidance_reference is "base" and no base was given'):
        losses_of(rows, options=BASE)
    with pytest.raises(TwinFlowError, match='guidance_reference is "auto"'):
        losses_of(rows, options=FULL.changed(guidance_reference="auto"), base=field)
    for reference in ("auto", "base"):
        losses_of(rows, options=FULL.changed(guidance_reference=reference, guidance_scale=1.0))
