"""How close the exported stock scheduler comes to the few-step sampler."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.stock_scheduler import stock_scheduler, stock_settings
from tests.oracles import GaussianFlow

STEPS = range(1, 9)


def levels(scheduler, steps: int) -> list[float]:
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.tolist()


@pytest.mark.parametrize("steps", STEPS)
def test_levels_are_the_samplers_to_a_thousandth(steps):
    assert levels(stock_scheduler(steps), steps) == pytest.approx(levels(TwinFlowScheduler(), steps), abs=0.00101)


@pytest.mark.parametrize(("made_for", "others"), [(3, (4,)), (4, (3,)), (6, (5, 7, 8))])
def test_scheduler_serves_every_number_of_steps_with_the_same_last_level(made_for, others):
    for steps in others:
        assert levels(stock_scheduler(made_for), steps) == levels(stock_scheduler(steps), steps)


@pytest.mark.parametrize("steps", STEPS)
def test_settings_as_code_make_the_same_scheduler(steps):
    names = {"FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler}
    made = eval(f"FlowMatchEulerDiscreteScheduler({stock_settings(steps)})", names)
    for name in ("stochastic_sampling", "shift_terminal", "shift"):
        assert made.config[name] == stock_scheduler(steps).config[name]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_with_the_same_noise_it_draws_the_samplers_picture(steps):
    """A linear field, so that a thousandth in t is a thousandth in the picture."""
    flow, start = GaussianFlow(mean=0.4, std=0.5), torch.randn(4, 3, 8, 8)
    results = []
    for scheduler in (TwinFlowScheduler(), stock_scheduler(steps)):
        scheduler.set_timesteps(steps)
        x, generator = start, torch.Generator().manual_seed(5)
        for timestep in scheduler.timesteps:
            t = torch.full((4,), float(timestep) / 1000, dtype=torch.float64)
            velocity = flow.average_velocity(x.double(), t, torch.zeros_like(t)).to(x.dtype)
            x = scheduler.step(velocity, timestep, x, generator=generator, return_dict=False)[0]
        results.append(x)
    assert (results[0] - results[1]).abs().max() < 0.005
