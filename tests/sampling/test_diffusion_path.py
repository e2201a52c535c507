"""Epsilon and v models as flows: their geometry, their times, and RCGM's fixed point through them."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.flow import endpoints, interpolate, per_sample, rollout
from simpletuner_twinflow.method.losses import rcgm_target
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state
from tests.method.oracles import GaussianFlow
from tests.sampling.diffusion_oracles import MODELS, SCHEDULES, ZERO_SNR, DiffusionOracle, prediction_for

models = pytest.mark.parametrize(("abar", "kind"), MODELS.values(), ids=MODELS.keys())
schedules = pytest.mark.parametrize("abar", [*SCHEDULES.values(), ZERO_SNR], ids=[*SCHEDULES, "zero snr"])
KINDS = pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
ORDERS = pytest.mark.parametrize("order", [1, 2, 3], ids="N={}".format)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def gaussian(dtype=torch.float64):
    """Data with a mean and a standard deviation of its own in each of 3 x 4 elements."""
    return GaussianFlow(
        mean=torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4), std=torch.linspace(0.3, 1.5, 12, dtype=dtype).view(3, 4)
    )


def on_the_path(flow, t):
    """Samples of the flow at the times t."""
    x = flow.mean + flow.std * torch.randn(len(t), 3, 4, dtype=t.dtype)
    return interpolate(x, torch.randn(len(t), 3, 4, dtype=t.dtype), t).x_t


def model_range(path, count, dtype=torch.float64):
    """Times along the whole of the model's own range, both ends included."""
    return torch.linspace(path.sigma_min, path.sigma_max, count, dtype=torch.float64).to(dtype)


def abar_of(sigma):
    """The textbook's abar of a flow time: (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2)."""
    return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)


def velocity_of(oracle, path, x_t, t):
    """What comes of asking an exact model at its own point and time."""
    point = path.point(x_t, t)
    return path.velocity(oracle(point.x, abar_of(path.sigma(point.time))), point.x, t)


@schedules
def test_the_flow_passes_through_the_noisy_samples_of_diffusers(abar):
    path, scheduler = DiffusionPath(abar, "v_prediction"), DDPMScheduler(num_train_timesteps=len(abar))
    scheduler.alphas_cumprod = abar.double()
    time = torch.arange(len(abar))
    x, z = torch.randn(2, len(abar), 3, dtype=torch.float64)
    sigma = path.sigma(time.double())
    x_t, noisy = interpolate(x, z, sigma).x_t, scheduler.add_noise(x, z, time)
    torch.testing.assert_close(path.point(x_t, sigma).x, noisy)
    torch.testing.assert_close(flow_state(noisy, sigma), x_t)
    torch.testing.assert_close(path.point(x_t, sigma).time, time.double(), rtol=0, atol=1e-6)


@models
@DTYPES
def test_an_exact_models_answer_becomes_the_exact_velocity_along_its_whole_path(abar, kind, dtype):
    flow, path = gaussian(dtype), DiffusionPath(abar, kind)
    t = model_range(path, 300, dtype)
    x_t = on_the_path(flow, t)
    # The model is asked at abar itself: at a time in float32 it knows sigma to 1e-7 only, which is another test's.
    point, oracle = path.point(x_t, t), DiffusionOracle(flow, kind)
    velocity = path.velocity(oracle(point.x, abar_of(t)), point.x, t)
    assert velocity.dtype == dtype
    # An error in epsilon comes out 1 / (1 - sigma) times as large: that much no arithmetic can help.
    amplified = per_sample(1 / (1 - t), like=x_t) if kind == "epsilon" else 1
    error = (velocity - flow.velocity(x_t, t)).abs() / amplified
    assert error.max() < {torch.float64: 1e-11, torch.float32: 6e-6}[dtype]


@models
@DTYPES
def test_a_model_asked_at_its_own_time_gives_the_exact_velocity_too(abar, kind, dtype):
    flow, path = gaussian(dtype), DiffusionPath(abar, kind)
    t = model_range(path, 300, dtype)
    t = t[t < 0.97]
    x_t = on_the_path(flow, t)
    error = (velocity_of(DiffusionOracle(flow, kind), path, x_t, t) - flow.velocity(x_t, t)).abs()
    assert error.max() < {torch.float64: 1e-8, torch.float32: 1e-3}[dtype]


@schedules
def test_sigma_and_time_are_each_others_inverse_and_both_rise(abar):
    path = DiffusionPath(abar, "v_prediction")
    time = torch.linspace(0, len(abar) - 1, 20_011, dtype=torch.float64)
    sigma = path.sigma(time)
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(path.time(sigma), time, rtol=0, atol=1e-8)
    torch.testing.assert_close(path.sigma(path.time(sigma)), sigma, rtol=0, atol=1e-12)
    assert (path.sigma(time.float()) - path.sigma(time)).abs().max() < 2e-7
    assert (path.sigma(path.time(sigma.float())) - sigma).abs().max() < 2e-7
    whole = torch.arange(len(abar))
    exact = (1 - abar.double()).sqrt() / (abar.double().sqrt() + (1 - abar.double()).sqrt())
    torch.testing.assert_close(path.sigma(whole), exact.float())
    assert (path.time(exact).round().long() == whole).all()


def test_between_the_steps_sigma_follows_the_continuous_schedule():
    def sigma_of(time):  # the VP process whose 1000 steps are the linear betas from 1e-4 to 0.02
        u = time / 1000
        abar = torch.exp(-(0.1 * u + (20 - 0.1) * u * u / 2) - 1e-4)
        return (1 - abar).sqrt() / (abar.sqrt() + (1 - abar).sqrt()), abar

    whole = torch.arange(1000, dtype=torch.float64)
    path = DiffusionPath(sigma_of(whole)[1], "epsilon")
    between = torch.linspace(0, 999, 9_991, dtype=torch.float64)
    error = (path.sigma(between) - sigma_of(between)[0]).abs()
    assert error.max() < 4e-5  # at the first step, where sigma bends most
    assert error[between > 20].max() < 1e-8


def test_sigma_is_smooth_at_the_steps():
    path = DiffusionPath(SCHEDULES["sdxl"], "epsilon")
    steps, h = torch.arange(1, 999, dtype=torch.float64), 1e-5
    left, right = path.sigma(steps) - path.sigma(steps - h), path.sigma(steps + h) - path.sigma(steps)
    torch.testing.assert_close(left / right, torch.ones_like(left), rtol=0, atol=1e-4)


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


@models
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_velocities_are_finite_and_float32_at_any_time_and_dtype(abar, kind, dtype):
    path = DiffusionPath(abar, kind)
    t = torch.tensor([0.0, 1e-6, path.sigma_min, 0.5, path.sigma_max, 0.999, 1.0])
    x_t, answer = torch.randn(2, 7, 4)
    point = path.point(x_t, t)
    velocity = path.velocity(answer.to(dtype), point.x.to(dtype), t)
    assert point.x.dtype == point.time.dtype == torch.float32
    assert velocity.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(velocity).all()
    assert torch.isfinite(point.x).all()
    exact = path.velocity(answer.to(dtype).double(), point.x.to(dtype).double(), t)
    torch.testing.assert_close(velocity.double(), exact, rtol=1e-6, atol=3e-4)


def test_gradients_reach_the_prediction():
    path = DiffusionPath(SCHEDULES["sdxl"], "epsilon")
    answer, t = torch.randn(3, 4, requires_grad=True), torch.tensor([0.2, 0.5, 1.0])
    path.velocity(answer, torch.randn(3, 4), t).sum().backward()
    scale = torch.tensor([1 / 0.8, 1 / 0.5, path.sigma_max / (1 - path.sigma_max)])
    torch.testing.assert_close(answer.grad, scale[:, None].expand(3, 4))


@KINDS
def test_the_sample_as_it_was_rounded_for_the_model_is_the_one_to_convert_with(kind):
    flow, path = gaussian(), DiffusionPath(SCHEDULES["sdxl"], kind)
    t = torch.full((400,), path.sigma_max, dtype=torch.float64)
    x_t = on_the_path(flow, t)
    point, oracle = path.point(x_t, t), DiffusionOracle(flow, kind)
    rounded = point.x.bfloat16()
    answer = oracle(rounded.double(), abar_of(t))

    def error(x):
        return (path.velocity(answer, x, t) - flow.velocity(x_t, t)).square().mean().sqrt()

    assert error(rounded) < 0.01
    if kind == "epsilon":
        assert error(point.x) > 5 * error(rounded)


def average_velocity(flow, path, kind):
    """An exact network of average velocities behind the diffusion side: it sees x_diff and its own time, and r."""

    def network(x, time, r):
        t = path.sigma(time)
        x_t = flow_state(x, t)
        return prediction_for(kind, flow.average_velocity(x_t, t, r), x_t, t)

    def predict(x_t, t, r):
        point = path.point(x_t, t)
        return path.velocity(network(point.x, point.time, r), point.x, t)

    return predict


def target_of(predict, x_t, velocity, t, r, *, order, delta_t):
    """The RCGM target with `predict` as teacher, put together as docs/method.md says."""
    s = torch.maximum(t - delta_t, r)
    x_s = x_t - per_sample(t - s, like=x_t) * velocity
    displacement = rollout(predict, x_s, s, r, order).displacement
    return rcgm_target(predict(x_t, t, r), velocity, displacement, t, r, delta_t=delta_t, clamp=100.0)


@models
@ORDERS
@pytest.mark.parametrize(("t", "r"), [(0.93, 0.0), (0.7, 0.3), (0.5, 0.498), (0.5, 0.5)])
def test_the_average_velocity_is_rcgms_fixed_point_through_the_models_own_point_and_time(abar, kind, order, t, r):
    flow, path = gaussian(), DiffusionPath(abar, kind)
    t, r = (torch.full((6,), value, dtype=torch.float64) for value in (t, r))
    x_t = on_the_path(flow, t)
    predict, exact = average_velocity(flow, path, kind), flow.average_velocity(x_t, t, r)
    torch.testing.assert_close(predict(x_t, t, r), exact, rtol=0, atol=1e-7)
    target = target_of(predict, x_t, flow.velocity(x_t, t), t, r, order=order, delta_t=1e-5)
    torch.testing.assert_close(target, exact, rtol=0, atol=1e-3)


@KINDS
@ORDERS
def test_the_residual_at_the_fixed_point_is_of_order_one_in_delta_t(kind, order):
    flow, path = gaussian(), DiffusionPath(SCHEDULES["sdxl"], kind)
    t, r = torch.full((6,), 0.9, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    x_t = on_the_path(flow, t)
    predict, exact = average_velocity(flow, path, kind), flow.average_velocity(x_t, t, r)

    def residual(delta_t):
        target = target_of(predict, x_t, flow.velocity(x_t, t), t, r, order=order, delta_t=delta_t)
        return float((target - exact).norm())

    halvings = [0.02, 0.01, 0.005, 0.0025]
    measured = [math.log2(residual(delta) / residual(delta / 2)) for delta in halvings]
    assert measured == pytest.approx([1.0] * 4, abs=0.1)


@KINDS
def test_the_fixed_point_holds_in_float32_at_the_trained_delta_t(kind):
    flow, path = gaussian(torch.float32), DiffusionPath(SCHEDULES["sdxl"], kind)
    t, r = torch.linspace(0.1, 0.93, 40), torch.zeros(40)
    x_t = on_the_path(flow, t)
    double = gaussian()
    exact = {
        dtype: target_of(
            average_velocity(model, path, kind), x_t.to(dtype), model.velocity(x_t.to(dtype), t.to(dtype)),
            t.to(dtype), r.to(dtype), order=2, delta_t=0.01,
        )
        for dtype, model in ((torch.float32, flow), (torch.float64, double))
    }  # fmt: skip
    torch.testing.assert_close(exact[torch.float32].double(), exact[torch.float64], rtol=0, atol=0.02)


def test_a_schedule_in_bf16_is_refused_because_its_steps_collapse():
    coarse = SCHEDULES["sdxl"].bfloat16()
    assert len(coarse.unique()) < 800
    with pytest.raises(TwinFlowConfigError, match=r"alphas_cumprod.*bfloat16.*fall from step to step.*float32"):
        DiffusionPath(coarse, "epsilon")


@pytest.mark.parametrize(
    ("abar", "kind", "words"),
    [
        (SCHEDULES["sdxl"], "sample", "prediction_type is 'sample'"),
        (SCHEDULES["sdxl"], "flow_matching", "prediction_type is 'flow_matching'"),
        (SCHEDULES["sdxl"].flip(0), "epsilon", "alphas_cumprod"),
        (torch.tensor([1.0, 0.5, 0.1]), "epsilon", "alphas_cumprod"),
        (torch.tensor([0.9, 0.5, -0.1]), "epsilon", "alphas_cumprod"),
        (torch.tensor([0.9, float("nan"), 0.1]), "epsilon", "alphas_cumprod"),
        (torch.ones(3, 3), "epsilon", "alphas_cumprod"),
    ],
)
def test_what_is_no_path_of_a_diffusion_model_is_refused(abar, kind, words):
    with pytest.raises(TwinFlowConfigError, match=words):
        DiffusionPath(abar, kind)
