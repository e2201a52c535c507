"""The sampler for pipelines whose time runs towards the data is the ordinary one, turned round at its border."""

import pytest
import torch
from simpletuner_twinflow.sampling.data_ward import DataWardTwinFlowScheduler

from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from tests.cli.pipeline import FLOW, run


def run_data_ward(scheduler, noise, steps):
    """A pipeline's loop for a network that is given 1 - t and returns x - z."""
    scheduler.set_timesteps(steps)
    x = noise
    for timestep, r in zip(scheduler.timesteps, scheduler.target_times, strict=True):
        t = torch.full((len(x),), 1 - float(timestep), dtype=torch.float64)
        velocity = -FLOW.average_velocity(x, t, r.expand(len(x)).double()).to(x.dtype)
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_are_those_of_the_ordinary_sampler(steps):
    noise = torch.randn(3, 2, 4, 4)
    expected = run(TwinFlowScheduler(), noise, steps)
    torch.testing.assert_close(run_data_ward(DataWardTwinFlowScheduler(), noise, steps), expected, rtol=1e-4, atol=1e-4)


def test_timesteps_rise_from_noise_towards_data():
    scheduler = DataWardTwinFlowScheduler()
    scheduler.set_timesteps(4)
    assert (scheduler.timesteps.diff() > 0).all()
    torch.testing.assert_close(scheduler.timesteps, 1 - scheduler.sigmas[:-1])


def test_configuration_makes_the_same_scheduler_again():
    scheduler = DataWardTwinFlowScheduler(shift=2.0, sigma_max=0.99)
    again = DataWardTwinFlowScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(3)
    again.set_timesteps(3)
    torch.testing.assert_close(again.timesteps, scheduler.timesteps)
