"""How close the exported stock scheduler comes to the few-step sampler."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.sampling.stock import stock_scheduler, stock_settings
from tests.sampling.loop import FLOW

STEPS = range(1, 9)


def sigmas_of(scheduler, steps: int) -> list[float]:
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.tolist()


@pytest.mark.parametrize(("steps", "apart"), list(zip(STEPS, [1e-3, 1e-3, 0.04, 0.04, *[0.09] * 4], strict=True)))
def test_sigmas_are_near_the_samplers_and_the_ends_are_the_samplers_to_a_thousandth(steps, apart):
    stock, ours = sigmas_of(stock_scheduler(steps), steps), sigmas_of(TwinFlowScheduler(), steps)
    assert stock == pytest.approx(ours, abs=apart + 1e-5)
    assert [stock[0], stock[-2], stock[-1]] == pytest.approx([ours[0], ours[-2], 0.0], abs=0.00101)


@pytest.mark.parametrize("made_for", STEPS)
@pytest.mark.parametrize("steps", STEPS)
def test_exported_scheduler_draws_at_any_number_of_steps_from_noise_to_the_last_trained_sigma(
    made_for, steps, tmp_path
):
    stock_scheduler(made_for).save_pretrained(tmp_path)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    found = sigmas_of(scheduler, steps)
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == steps + 1
    if steps > 1:
        assert found[-2] == pytest.approx({1: 0.6, 2: 0.6, 3: 0.5, 4: 0.5}.get(made_for, 0.3), abs=1e-5)
    x = drawn(scheduler, steps, torch.randn(4, 3, 8, 8))
    assert torch.isfinite(x).all()
    assert x.std() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("steps", STEPS)
def test_settings_as_code_make_the_same_scheduler(steps):
    names = {"FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler}
    made = eval(f"FlowMatchEulerDiscreteScheduler({stock_settings(steps)})", names)
    for name in ("stochastic_sampling", "use_karras_sigmas", "shift"):
        assert made.config[name] == stock_scheduler(steps).config[name]


def drawn(scheduler, steps: int, start):
    # FLOW is a linear field, so that a thousandth in t is a thousandth in the picture.
    scheduler.set_timesteps(steps)
    x, generator = start, torch.Generator().manual_seed(5)
    for timestep in scheduler.timesteps:
        t = torch.full((len(x),), float(timestep) / 1000, dtype=torch.float64)
        velocity = FLOW.average_velocity(x.double(), t, torch.zeros_like(t)).to(x.dtype)
        x = scheduler.step(velocity, timestep, x, generator=generator, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2])
def test_with_the_same_noise_it_draws_the_samplers_picture(steps):
    start = torch.randn(4, 3, 8, 8)
    ours, stock = (drawn(scheduler, steps, start) for scheduler in (TwinFlowScheduler(), stock_scheduler(steps)))
    assert (ours - stock).abs().max() < 0.005
