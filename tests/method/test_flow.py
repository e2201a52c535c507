from itertools import pairwise

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import at_least_float32, endpoints, interpolate, per_sample, rollout
from tests.method.oracles import GaussianFlow, times

SHAPES = {"vector": (3, 7), "image": (3, 4, 8, 8), "video": (3, 4, 5, 8, 8), "tokens": (3, 16, 6)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def pair(shape=(3, 7), dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


@shapes
def test_the_path_starts_in_data_and_ends_in_noise(shape):
    x, z = pair(shape)
    torch.testing.assert_close(interpolate(x, z, times(0, 0, 0)).x_t, x)
    torch.testing.assert_close(interpolate(x, z, times(1, 1, 1)).x_t, z)


@shapes
def test_the_velocity_points_from_data_to_noise(shape):
    x, z = pair(shape)
    t, step = times(0.1, 0.4, 0.8), 0.05
    here, there = interpolate(x, z, t), interpolate(x, z, t + step)
    torch.testing.assert_close(there.x_t - here.x_t, step * here.velocity)


@shapes
def test_the_true_velocity_points_back_at_both_ends(shape):
    x, z = pair(shape)
    t = times(0.0, 0.3, 1.0)
    sample = interpolate(x, z, t)
    ends = endpoints(sample.x_t, sample.velocity, t)
    torch.testing.assert_close(ends.x_hat, x)
    torch.testing.assert_close(ends.z_hat, z)


def test_each_sample_has_its_own_time():
    values = per_sample(times(1, 2, 3), like=torch.zeros(3, 4, 5))
    assert values.shape == (3, 1, 1)
    assert values.flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_rollout_of_the_average_velocity_lands_on_the_flow_map(steps):
    flow, (x, z) = GaussianFlow(mean=0.4, std=0.5), pair()
    s, r = times(1.0, 0.7, 0.3), times(0.0, 0.2, 0.3)
    x_s = interpolate(x, z, s).x_t
    moved = rollout(flow.average_velocity, x_s, s, r, steps)
    torch.testing.assert_close(moved.x_r, flow.flow_map(x_s, s, r))
    torch.testing.assert_close(moved.displacement, x_s - moved.x_r)


def test_a_rollout_of_the_mere_velocity_is_eulers_method_of_order_one():
    flow, x_s = GaussianFlow(mean=0.4, std=0.5), pair()[0]
    s, r = times(1.0, 0.8, 0.6), times(0.0, 0.1, 0.2)

    def error(steps):
        moved = rollout(lambda x, t, _: flow.velocity(x, t), x_s, s, r, steps)
        return (moved.x_r - flow.flow_map(x_s, s, r)).abs().mean()

    assert error(64) / error(128) == pytest.approx(2, abs=0.1)


def test_a_rollout_takes_equal_jumps_that_end_on_r_exactly():
    seen = []
    s, r = torch.rand(500).clamp(min=0.2), torch.rand(500) * 0.2
    r[250:] = s[250:]  # no distance at all, where a rounding upwards would put a target time above its time

    def predict(x, t, following):
        seen.append((t, following))
        return x

    rollout(predict, torch.zeros(500, 2), s, r, 3)
    assert torch.equal(seen[0][0], s)
    assert torch.equal(seen[-1][1], r)
    assert all(torch.equal(end, start) for (_, end), (start, _) in pairwise(seen))
    for t, following in seen:
        torch.testing.assert_close(t - following, (s - r) / 3)
        assert (following <= t).all()


def test_a_rollout_over_no_distance_goes_nowhere():
    t = times(0.0, 0.5, 1.0)
    moved = rollout(lambda x, t, r: torch.full_like(x, 1e6), torch.ones(3, 2, dtype=torch.float64), t, t, 4)
    assert not moved.displacement.any()


@pytest.mark.parametrize("of_times", [torch.bfloat16, torch.float32], ids=str)
def test_a_rollout_of_a_bf16_network_is_summed_in_float32(of_times):
    s, r = torch.ones(3, dtype=of_times), torch.zeros(3, dtype=of_times)
    moved = rollout(lambda x, t, r: x.bfloat16(), torch.randn(3, 2).bfloat16(), s, r, 2)
    assert moved.displacement.dtype == moved.x_r.dtype == torch.float32


@pytest.mark.parametrize("steps", [0, -1])
def test_a_rollout_without_a_step_is_refused(steps):
    with pytest.raises(TwinFlowError, match=f"at least one step; got {steps}"):
        rollout(lambda x, t, r: x, torch.zeros(1, 1), torch.ones(1), torch.zeros(1), steps)


@pytest.mark.parametrize(
    ("dtype", "working"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_mathematics_is_in_float32_at_least(dtype, working):
    assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == working
