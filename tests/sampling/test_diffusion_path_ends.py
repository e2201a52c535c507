"""Flow times beyond the ends of a diffusion model's own: what it is asked there, and what that costs."""

import pytest
import torch

from simpletuner_twinflow.method.flow import endpoints, per_sample
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state
from tests.method.oracles import GaussianFlow
from tests.sampling.diffusion_oracles import (
    MODELS,
    SCHEDULES,
    DiffusionOracle,
    abar_of,
    gaussian,
    on_the_path,
    prediction_for,
    velocity_of,
)

models = pytest.mark.parametrize(("abar", "kind"), MODELS.values(), ids=MODELS.keys())


@models
def test_beyond_the_models_last_time_the_error_is_that_of_pure_noise_taken_for_its_last_state(abar, kind):
    flow, path = gaussian(), DiffusionPath(abar, kind)
    t = torch.linspace(path.sigma_max, 1, 50, dtype=torch.float64)
    x_t = on_the_path(flow, t)
    velocity = velocity_of(DiffusionOracle(flow, kind), path, x_t, t)
    torch.testing.assert_close(path.point(x_t, t).time, path.time(t[:1]).expand(50))

    def data(x, abar):  # E[x_0 | x], what both kinds of model know
        gain = abar.sqrt() * flow.std**2 / (abar * flow.std**2 + 1 - abar)
        return flow.mean + gain * (x - abar.sqrt() * flow.mean)

    here, asked = (abar_of(per_sample(time, like=x_t)) for time in (t, t[:1]))
    x = path.point(x_t, t).x
    off = (data(x, here) - data(x, asked)) / per_sample(t, like=x_t)
    torch.testing.assert_close(velocity - flow.velocity(x_t, t), off, rtol=0, atol=2e-8)
    # The documented size, at t = 1, for the noise alone.
    a, variance = float(asked[0, 0, 0]) ** 0.5, flow.std**2
    noise = on_the_path(flow, torch.ones(1, dtype=torch.float64))
    velocity = velocity_of(DiffusionOracle(flow, kind), path, noise, torch.ones(1, dtype=torch.float64))
    size = a * variance / (a * a * variance + 1 - a * a)
    expected = size * (noise - a * flow.mean)
    torch.testing.assert_close(flow.velocity(noise, torch.ones(1)) - velocity, expected, rtol=0, atol=2e-8)


@models
def test_before_the_models_first_time_the_error_is_that_of_a_cleaner_sample_taken_for_its_first_state(abar, kind):
    flow, path = gaussian(), DiffusionPath(abar, kind)
    t = torch.linspace(0, path.sigma_min, 50, dtype=torch.float64)
    x_t = on_the_path(flow, t)
    velocity = velocity_of(DiffusionOracle(flow, kind), path, x_t, t)
    assert (path.point(x_t, t).time == 0).all()
    x, here, asked = path.point(x_t, t).x, abar_of(per_sample(t, like=x_t)), abar_of(per_sample(t[-1:], like=x_t))
    noise = DiffusionOracle(flow, "epsilon")
    off = (noise(x, asked.flatten()) - noise(x, here.flatten())) / per_sample(1 - t, like=x_t)
    torch.testing.assert_close(velocity - flow.velocity(x_t, t), off, rtol=0, atol=1e-8)
    assert off.abs().max() < 1.5 * path.sigma_min * ((x - flow.mean).abs() / flow.std**2).max()


def test_pure_noise_taken_for_the_last_state_costs_seven_per_cent_on_sdxl():
    flow, path = GaussianFlow(mean=0.0, std=1.0), DiffusionPath(SCHEDULES["sdxl"], "epsilon")
    noise, one = torch.randn(1, 1000, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    off = velocity_of(DiffusionOracle(flow, "epsilon"), path, noise, one) - flow.velocity(noise, one)
    assert float(off.norm() / noise.norm()) == pytest.approx(0.0683, abs=1e-4)


@models
def test_a_one_step_sample_from_pure_noise_is_off_by_next_to_nothing(abar, kind):
    # The network knows the average velocity at its own times; at its last one it is shown noise.
    flow, path = gaussian(), DiffusionPath(abar, kind)
    noise, one = torch.randn(200, 3, 4, dtype=torch.float64), torch.ones(200, dtype=torch.float64)
    point = path.point(noise, one)
    last = path.sigma(point.time)
    seen = flow_state(point.x, last)
    answer = prediction_for(kind, flow.average_velocity(seen, last, 0 * last), seen, last)
    sample = endpoints(noise, path.velocity(answer, point.x, one), one).x_hat
    a = float(abar_of(last[0])) ** 0.5
    error = (sample - flow.flow_map(noise, one, 0 * one)).abs()
    shift, stretch = a * flow.mean.abs() * flow.std, a * a * (flow.std**2 - 1).abs() * flow.std * noise.abs()
    assert (error <= 1.3 * (shift + stretch) + 1e-6).all()


@models
def test_the_three_spans_join_without_a_jump(abar, kind):
    path = DiffusionPath(abar, kind)
    x_t, answer = torch.randn(2, 1, 500, dtype=torch.float64)
    for end in (path.sigma_min, path.sigma_max):
        if end < 1:
            sides = []
            for t in (end - 1e-9, end + 1e-9):
                t = torch.tensor([t], dtype=torch.float64)
                sides.append(path.velocity(answer, path.point(x_t, t).x, t))
            torch.testing.assert_close(*sides, rtol=0, atol=1e-3 if end > 0.99 else 1e-5)
