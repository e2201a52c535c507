"""A run of several steps: its rows at the sampler's own steps, and the network that needs no target time there."""

from itertools import pairwise

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import interpolate
from simpletuner_twinflow.method.objective import ObjectiveSettings
from simpletuner_twinflow.method.time_conditioning import TargetTimeEmbedding, sampler_target_time
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import sample
from tests.method.oracles import GaussianFlow
from tests.method.training_step import ANY, FULL, NEAR, ONE, STEP, STEPS, Recorder, batch, losses_of, prepared

COUNTS = pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])


@COUNTS
def test_the_sampler_goes_from_each_of_its_times_to_the_next_and_to_the_data_at_last(steps):
    times = SamplerSettings().step_times(steps)
    found = sampler_target_time(torch.tensor(times, dtype=torch.float64), times)
    expected = torch.tensor([*times[1:], 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@COUNTS
def test_between_its_times_the_target_rises_in_a_straight_line_and_lies_below_the_time(steps):
    times = SamplerSettings().step_times(steps)
    t = torch.linspace(0, 1, 1_001, dtype=torch.float64)
    target = sampler_target_time(t, times)
    assert (target.diff() >= 0).all()
    assert (target[1:] < t[1:]).all()
    assert not target[t <= times[-1]].any()
    for high, low in pairwise(times):
        middle = sampler_target_time(torch.tensor([(high + low) / 2], dtype=torch.float64), times)
        ends = sampler_target_time(torch.tensor([high, low], dtype=torch.float64), times)
        torch.testing.assert_close(middle, ends.mean(0, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@COUNTS
def test_the_term_vanishes_where_the_sampler_calls_and_nowhere_else(steps, dtype):
    times = SamplerSettings().step_times(steps)
    embedding = TargetTimeEmbedding(4, times).to(dtype)
    for weight in embedding.parameters():
        torch.nn.init.normal_(weight)
    t, r = torch.tensor(times), torch.tensor([*times[1:], 0.0])
    assert embedding(t, r).abs().max() < 1e-4
    assert embedding(t, t).abs().amax(dim=1).min() > 1e-2
    if steps > 1:
        assert embedding(t[:1], torch.zeros(1)).abs().max() > 1e-2


def test_its_rows_lie_on_the_datas_path_at_the_samplers_steps_in_turn():
    roles, data = (STEP, NEAR, STEP, ONE, STEP, ANY), batch((STEP,) * 6)
    rows = prepared(roles, ObjectiveSettings(enhanced_ratio=0.0), data=data, sampler_steps=STEPS)
    at = [0, 2, 4]
    pairs = list(zip(rows.t[at].tolist(), rows.r[at].tolist(), strict=True))
    assert set(pairs) == set(STEPS)
    assert pairs[0] == pairs[2] != pairs[1]
    assert rows.sign[at].tolist() == [1, 1, 1]
    assert torch.equal(rows.x, data[0])
    assert torch.equal(rows.x_t, interpolate(*data[:2], rows.t).x_t)


def test_they_learn_the_flows_average_velocity_over_the_step():
    flow = GaussianFlow(mean=0.3, std=0.5)

    def network(x_t, t, r, sign, condition):
        return flow.average_velocity(x_t, t, r)

    roles = (STEP,) * 20_000
    options = ObjectiveSettings(enhanced_ratio=0.0, target_clamp=100.0, delta_t=1e-3)
    x = 0.3 + 0.5 * torch.randn(len(roles), 1, dtype=torch.float64)
    rows = prepared(roles, options, data=(x, torch.randn_like(x), torch.rand(len(roles))), sampler_steps=STEPS)
    prediction = network(rows.x_t, rows.t, rows.r, None, None).requires_grad_()
    losses_of(rows, prediction, options, teacher=network).total.backward()
    # The residual of a single row is noise; its mean is 0 at the fixed point.
    assert prediction.grad.sum().abs() < 0.05


def test_a_sampler_that_steps_by_them_follows_the_flow_exactly():
    flow, z = GaussianFlow(mean=0.3, std=0.5), torch.randn(16, 3, dtype=torch.float64)
    end = flow.flow_map(z, torch.ones(16), torch.zeros(16))
    for steps in (1, 2, 4):
        times = SamplerSettings().step_times(steps)

        def stock_network(x, t, r, times=times):  # without modules: it knows the time alone
            return flow.average_velocity(x, t, sampler_target_time(t, times))

        made = sample(stock_network, z, steps, SamplerSettings())
        torch.testing.assert_close(made, end, rtol=0, atol=1e-6)


def test_without_the_samplers_steps_the_rows_are_refused():
    with pytest.raises(TwinFlowError, match="no sampler_steps"):
        prepared((STEP, NEAR))


def test_they_are_guided_and_have_no_rectify():
    roles = (STEP,) * 4
    rows = prepared(roles, FULL, sampler_steps=STEPS)
    losses = losses_of(rows)
    assert set(losses.terms) == {"rcgm"}
    assert losses.forwards["guidance"] == 2 * 4
    assert losses.forwards["rollout"] == FULL.estimate_order * 4
    teacher = Recorder()
    losses_of(rows, teacher=teacher)
    assert {tuple(r.tolist()) for _, _, r, *_ in teacher.calls[-1:]} == {tuple(rows.r.tolist())}
