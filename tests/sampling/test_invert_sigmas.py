"""Pipelines whose time is 1 at the data: the ordinary sampler, with the stock scheduler's `invert_sigmas`."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from tests.sampling.loop import FLOW, run

SCALES = pytest.mark.parametrize("scale", [1, 1000])


def inverted(scale=1, **settings):
    return TwinFlowScheduler(invert_sigmas=True, num_train_timesteps=scale, **settings)


@SCALES
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_are_those_of_the_ordinary_sampler(steps, scale):
    noise = torch.randn(3, 2, 4, 4)
    expected = run(TwinFlowScheduler(), noise, steps)
    torch.testing.assert_close(run(inverted(scale), noise, steps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_of_an_exact_network_are_the_flow_map(steps):
    noise, ones = torch.randn(5, 3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    made = run(inverted(style="any", sigma_max=1.0), noise, steps)
    torch.testing.assert_close(made, FLOW.flow_map(noise, ones, 0 * ones), rtol=0, atol=1e-6)


@SCALES
def test_sigmas_and_timesteps_are_the_stock_schedulers(scale):
    ours, stock = inverted(scale), FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=scale)
    for steps in range(1, 9):
        ours.set_timesteps(steps)
        stock.set_timesteps(sigmas=TwinFlowScheduler().step_times(steps))
        assert torch.equal(ours.sigmas, stock.sigmas)
        assert torch.equal(ours.timesteps, stock.timesteps)
        assert ours.sigmas[-1] == 1


def test_timesteps_between_0_and_1_are_those_of_the_separate_class_that_there_was():
    for steps, timesteps in ((1, [0.001]), (2, [0.001, 0.4]), (4, [0.001, 0.16733333, 0.33366667, 0.5])):
        scheduler = inverted(stochastic_ratio=1.0)
        scheduler.set_timesteps(steps)
        sigmas = torch.tensor(scheduler.step_times(steps), dtype=torch.float64)
        before = 1 - (sigmas * 1000).float() / 1000
        assert torch.equal(scheduler.timesteps, before)
        assert scheduler.timesteps.tolist() == pytest.approx(timesteps, abs=1e-7)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_each_step_is_the_stock_schedulers(share):
    ours, stock = (
        inverted(stochastic_ratio=share),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
    )
    ours.set_timesteps(4)
    stock.set_timesteps(sigmas=ours.step_times(4))
    x, velocity = torch.randn(2, 3, 4)
    found = ours.step(velocity, ours.timesteps[0], x, generator=torch.Generator().manual_seed(2)).prev_sample
    if share == 0:
        torch.testing.assert_close(found, stock.step(velocity, stock.timesteps[0], x).prev_sample)
    else:
        noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
        now, following = stock.sigmas[:2]
        torch.testing.assert_close(found, following * (x + (1 - now) * velocity) + (1 - following) * noise)


def test_timestep_off_the_schedule_is_refused():
    scheduler = inverted()
    scheduler.set_timesteps(2)
    assert scheduler.index_for_timestep(0.5) == 1
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.index_for_timestep(0.7)


def test_noise_is_added_as_by_the_ordinary_sampler():
    ordinary, scheduler = TwinFlowScheduler(), inverted()
    x, z = torch.randn(2, 1, 3)
    for each in (ordinary, scheduler):
        each.set_timesteps(4)
    expected = ordinary.scale_noise(x, ordinary.timesteps[2:3], z)
    torch.testing.assert_close(scheduler.scale_noise(x, scheduler.timesteps[2:3], z), expected)


def test_configuration_makes_the_same_scheduler_again(tmp_path):
    scheduler = inverted(shift=2.0, sigma_max=0.99)
    scheduler.save_pretrained(tmp_path)
    for again in (TwinFlowScheduler.from_config(scheduler.config), TwinFlowScheduler.from_pretrained(tmp_path)):
        scheduler.set_timesteps(3)
        again.set_timesteps(3)
        assert torch.equal(again.timesteps, scheduler.timesteps)
        assert torch.equal(again.sigmas, scheduler.sigmas)
