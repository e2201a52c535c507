"""Epsilon and v models as flows: their geometry and their times."""

import pytest
import torch
from diffusers import DDPMScheduler

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.flow import interpolate, per_sample
from simpletuner_twinflow.sampling import diffusion_path
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state
from tests.sampling.diffusion_oracles import (
    MODELS,
    SCHEDULES,
    ZERO_SNR,
    DiffusionOracle,
    abar_of,
    gaussian,
    on_the_path,
    velocity_of,
)

models = pytest.mark.parametrize(("abar", "kind"), MODELS.values(), ids=MODELS.keys())
schedules = pytest.mark.parametrize("abar", [*SCHEDULES.values(), ZERO_SNR], ids=[*SCHEDULES, "zero snr"])
KINDS = pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def model_range(path, count, dtype=torch.float64):
    """Times along the whole of the model's own range, both ends included."""
    return torch.linspace(path.sigma_min, path.sigma_max, count, dtype=torch.float64).to(dtype)


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
        (torch.tensor([0.9, 0.5, 0.5, 0.1]), "epsilon", "alphas_cumprod"),
        (torch.tensor([0.9, float("nan"), 0.1]), "epsilon", "alphas_cumprod"),
        (torch.ones(3, 3), "epsilon", "alphas_cumprod"),
    ],
)
def test_what_is_no_path_of_a_diffusion_model_is_refused(abar, kind, words):
    with pytest.raises(TwinFlowConfigError, match=words):
        DiffusionPath(abar, kind)


def test_an_epsilon_models_range_has_the_time_whose_sigma_is_the_limit_itself(monkeypatch):
    whole = DiffusionPath(SCHEDULES["sdxl"], "v_prediction")
    limit = whole.sigma(torch.tensor(700.0, dtype=torch.float64)).item()
    monkeypatch.setattr(diffusion_path, "EPSILON_SIGMA_MAX", limit)
    assert DiffusionPath(SCHEDULES["sdxl"], "epsilon").sigma_max == limit


def test_a_device_that_has_float64_computes_times_in_it():
    path = DiffusionPath(SCHEDULES["sdxl"], "epsilon")
    assert path._on(torch.device("meta")).sigma.dtype == torch.float64
