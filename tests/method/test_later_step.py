"""later_step rows: where the sampler's own steps lead, and what is asked of the network there."""

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import LATER_TIMES
from simpletuner_twinflow.method.flow import interpolate, per_sample, rollout
from simpletuner_twinflow.method.losses import LATER_STEP_FACTOR, later_step_target
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import sample
from tests.method.oracles import GaussianFlow
from tests.method.training_step import ANY, FULL, LATER, NEAR, ONE, TWIN, Recorder, batch, losses_of, prepared

TWO_STEPS = FULL.changed(target_step_count=2)
ROLES = (LATER, NEAR, LATER, ONE, ANY, TWIN)
AT = [0, 2]


def walk(teacher, noise, prompts, first=1.0, order=2):
    """Where the teacher's walk of `order` jumps from this noise ends, and its jump in one."""
    ones = torch.ones(len(noise))

    def jump(x, t, r):
        return teacher(x, t, r, ones, PromptRows(prompts))

    end = rollout(jump, noise, first * ones, 0 * ones, order).x_r
    return end, noise - first * jump(noise, first * ones, 0 * ones)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("first", [1.0, 0.999])
def test_a_jump_with_the_rows_velocity_ends_where_the_teachers_walk_from_its_noise_does(order, first):
    data, teacher = batch(ROLES), Recorder()
    options = TWO_STEPS.changed(estimate_order=order)
    rows = prepared(ROLES, options, data=data, teacher=teacher, step_times=(first, 0.5))
    end, _ = walk(Recorder(), data[1][AT], (0, 2), first, order)
    torch.testing.assert_close(rows.x_t[AT] - per_sample(rows.t[AT], end) * rows.velocity[AT], end)
    assert rows.r[AT].tolist() == [0, 0]
    assert rows.sign[AT].tolist() == [1, 1]
    assert all(not with_grad for *_, with_grad in teacher.calls)


def test_the_point_lies_between_the_noise_and_a_sample_that_is_part_of_the_way_from_one_jump_to_the_walks_end():
    roles = (LATER,) * 2_000
    data = (torch.zeros(2_000, 1), torch.randn(2_000, 1), torch.rand(2_000))
    rows = prepared(roles, TWO_STEPS, data=data, teacher=Recorder())
    end, in_one = walk(Recorder(), data[1], tuple(range(2_000)))
    part = (rows.x - in_one) / (end - in_one)
    torch.testing.assert_close(part.flatten().sort().values, torch.linspace(0, 1, 2_000), rtol=0, atol=0.05)
    assert torch.equal(rows.z, data[1])
    assert torch.equal(rows.x_t, interpolate(rows.x, rows.z, rows.t).x_t)
    low, high = LATER_TIMES
    torch.testing.assert_close(rows.t.sort().values, torch.linspace(low, high, 2_000), rtol=0, atol=0.03)


def test_the_data_is_not_looked_at():
    x, z, t = batch(ROLES)
    other = prepared(ROLES, TWO_STEPS, data=(x + 1, z, 1 - t), teacher=Recorder())
    rows = prepared(ROLES, TWO_STEPS, data=(x, z, t), teacher=Recorder())
    for name in ("x_t", "t", "velocity"):
        assert torch.equal(getattr(other, name)[AT], getattr(rows, name)[AT])


def test_with_later_step_rows_in_the_objective_one_step_rows_begin_in_noise_alone():
    times = (1.0, 0.5)
    roles = (ONE,) * 100
    assert set(prepared(roles, TWO_STEPS, step_times=times).t.tolist()) == {1.0}
    assert set(prepared(roles, FULL, step_times=times).t.tolist()) == {1.0, 0.5}


def test_the_true_average_velocity_of_a_flow_is_where_the_term_rests_and_its_sampler_arrives():
    """On a Gaussian flow, whose jumps are exact, one jump and the walk end in the same place, and so do Euler steps."""
    flow = GaussianFlow(mean=0.3, std=0.5)

    def network(x_t, t, r, sign, condition):
        return flow.average_velocity(x_t, t, r)

    roles = (LATER,) * 64
    x, z, t = batch(roles, (3,), torch.float64)
    rows = prepared(roles, TWO_STEPS, data=(x, z, t), teacher=network)
    end = z - flow.average_velocity(z, torch.ones(64), torch.zeros(64))
    torch.testing.assert_close(rows.x_t - per_sample(rows.t, end) * rows.velocity, end, rtol=0, atol=1e-5)
    losses = losses_of(rows, rows.velocity, TWO_STEPS, teacher=network)
    assert losses.terms["later_step"].total < 1e-10

    def taught(x, t, r):
        """At a point of the straight line from the noise to the end, the way to that end."""
        return (x - end) / per_sample(t, like=x)

    for steps in (1, 2, 4):
        torch.testing.assert_close(sample(taught, z, steps, SamplerSettings()), end, rtol=0, atol=1e-9)


def test_the_target_is_three_times_the_miss_of_the_jump_and_bounded_by_the_clamp():
    prediction, t = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    velocity = torch.tensor([[0.1, -0.1], [0.2, 9.0], [-9.0, 0.0]], dtype=torch.float64)
    found = later_step_target(prediction, velocity, t, clamp=1.0)
    assert LATER_STEP_FACTOR == 3
    expected = torch.tensor([[0.3, -0.3], [0.3, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_the_term_is_the_distance_to_that_target_and_its_passes_are_counted():
    teacher = Recorder()
    rows = prepared(ROLES, TWO_STEPS, teacher=teacher)
    assert rows.generated == teacher.rows + 1 == 2 * 3 + 1  # the twin row's sample is the student's
    prediction = torch.randn_like(rows.x_t)
    losses = losses_of(rows, prediction, TWO_STEPS)
    target = later_step_target(prediction[AT], rows.velocity[AT], rows.t[AT], clamp=TWO_STEPS.target_clamp)
    torch.testing.assert_close(losses.terms["later_step"].total, (prediction[AT] - target).square().mean((1, 2)).sum())
    assert losses.terms["later_step"].rows == 2
    assert losses.forwards["generated"] == rows.generated


def test_without_a_teacher_the_rows_are_refused():
    with pytest.raises(TwinFlowError, match="no teacher"):
        prepared(ROLES, TWO_STEPS)


def test_guidance_and_time_weights_leave_the_rows_alone():
    base = ObjectiveSettings(target_step_count=2, guidance_reference="base", time_weighting=True)
    rows = prepared(ROLES[:-1], base, teacher=Recorder())
    prediction = torch.randn_like(rows.x_t)
    guided = losses_of(rows, prediction, base, base=Recorder()).terms["later_step"].total
    plain = (
        losses_of(rows, prediction, base.changed(enhanced_ratio=0.0, time_weighting=False)).terms["later_step"].total
    )
    assert guided == plain
