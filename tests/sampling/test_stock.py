"""The exported stock scheduler has the few-step sampler's own sigmas and makes its steps."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import _logit_normal_sigmas, _resolution_aware_mu
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.sampling.stock import (
    inverted_scheduler,
    inverted_settings,
    mean_of_spacing,
    stock_scheduler,
    stock_scheduler_of_spaced_sigmas,
    stock_settings,
)
from tests.sampling.loop import FLOW

ROOT = Path(__file__).parents[2]
STEPS = range(1, 9)
KINDS = pytest.mark.parametrize("even_sigmas", [False, True], ids=["scheduler's own", "even sigmas"])


def laid_out(scheduler, steps: int, even_sigmas: bool):
    """The scheduler after a pipeline of this kind has asked for its timesteps. FLUX's kin work out a mu too."""
    given = {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": 1.15} if even_sigmas else {}
    retrieve_timesteps(scheduler, steps, "cpu", **given)
    return scheduler


def reloaded(scheduler, folder) -> FlowMatchEulerDiscreteScheduler:
    scheduler.save_pretrained(folder)
    return FlowMatchEulerDiscreteScheduler.from_pretrained(folder)


@KINDS
@pytest.mark.parametrize("steps", STEPS)
def test_sigmas_and_timesteps_are_the_samplers_at_the_steps_it_was_made_for(steps, even_sigmas, tmp_path):
    stock = laid_out(reloaded(stock_scheduler(steps, even_sigmas=even_sigmas), tmp_path), steps, even_sigmas)
    ours = laid_out(TwinFlowScheduler(), steps, even_sigmas)
    torch.testing.assert_close(stock.sigmas, ours.sigmas, rtol=0, atol=1e-5)
    torch.testing.assert_close(stock.timesteps, ours.timesteps, rtol=0, atol=1e-2)


@pytest.mark.parametrize("made_for", STEPS)
@pytest.mark.parametrize("steps", STEPS)
def test_with_even_sigmas_they_are_the_samplers_whatever_it_was_made_for(made_for, steps):
    stock = laid_out(stock_scheduler(made_for, even_sigmas=True), steps, even_sigmas=True)
    assert stock.sigmas.tolist() == pytest.approx(TwinFlowScheduler().settings.sigmas(steps), abs=1e-5)


@pytest.mark.parametrize("made_for", STEPS)
@pytest.mark.parametrize("steps", STEPS)
def test_without_they_fall_from_noise_to_the_last_sigma_of_the_steps_it_was_made_for(made_for, steps):
    """So one step is the sampler's whatever it was made for, and a model for one step has the sampler's two."""
    found = laid_out(stock_scheduler(made_for), steps, even_sigmas=False).sigmas.tolist()
    assert found[0] == 1
    assert found == sorted(set(found), reverse=True)
    assert len(found) == steps + 1
    assert found[-2] == pytest.approx(1 if steps == 1 else 1 / max(made_for, 2), abs=1e-5)


@KINDS
@pytest.mark.parametrize("steps", STEPS)
def test_settings_as_code_make_the_same_scheduler(steps, even_sigmas):
    scheduler = stock_scheduler(steps, even_sigmas=even_sigmas)
    names = {"FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler}
    made = eval(f"FlowMatchEulerDiscreteScheduler({stock_settings(scheduler)})", names)
    settings = [{name: value for name, value in each.config.items() if name[0] != "_"} for each in (made, scheduler)]
    assert settings[0] == settings[1]


ROW = re.compile(r"^\| (\d) \| (1, [\d., ]*0) \| (any|[\d.]+) \|$", re.MULTILINE)


def test_the_page_names_the_sigmas_and_the_shift():
    rows = ROW.findall((ROOT / "docs/sampling.md").read_text(encoding="utf-8"))
    assert [int(steps) for steps, _, _ in rows] == [1, 2, 3, 4, 8]
    for steps, sigmas, shift in rows:
        stock = laid_out(stock_scheduler(int(steps)), int(steps), even_sigmas=False)
        assert [float(sigma) for sigma in sigmas.split(", ")] == pytest.approx(stock.sigmas.tolist(), abs=5.1e-5)
        assert shift == ("any" if steps == "1" else str(stock.shift))


def drawn(scheduler, steps: int, even_sigmas: bool, start):
    laid_out(scheduler, steps, even_sigmas)
    x = start
    for timestep in scheduler.timesteps:
        t = torch.full((len(x),), float(timestep) / 1000, dtype=torch.float64)
        velocity = FLOW.average_velocity(x.double(), t, torch.zeros_like(t)).to(x.dtype)
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    return x


@KINDS
@pytest.mark.parametrize("steps", STEPS)
def test_it_draws_the_samplers_picture_and_touches_no_random_stream(steps, even_sigmas):
    start, before = torch.randn(4, 3, 8, 8), torch.get_rng_state()
    stock = drawn(stock_scheduler(steps, even_sigmas=even_sigmas), steps, even_sigmas, start)
    torch.testing.assert_close(stock, drawn(TwinFlowScheduler(), steps, even_sigmas, start), rtol=0, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(64, 64), (1024, 1024), (1344, 768)])
@pytest.mark.parametrize("steps", STEPS)
def test_pipeline_that_spaces_its_sigmas_itself_has_the_samplers_by_the_mean_of_its_call(steps, size):
    mu = _resolution_aware_mu(*size, base_mu=mean_of_spacing(steps, size[0] * size[1]))
    stock = stock_scheduler_of_spaced_sigmas()
    stock.set_timesteps(sigmas=_logit_normal_sigmas(steps, mu, std=1.5).tolist())
    assert stock.sigmas.tolist() == pytest.approx(TwinFlowScheduler().settings.sigmas(steps), abs=2e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_scheduler_that_shifts_once_has_the_samplers_sigmas(steps):
    made = stock_scheduler(steps, shifted_once=True)
    made.sigma_max, made.sigma_min = 1.0, 0.001  # as SimpleTuner's subclass for Anima leaves them
    made.set_timesteps(steps)
    assert made.sigmas.tolist() == pytest.approx(TwinFlowScheduler().settings.sigmas(steps), abs=1e-5)


@pytest.mark.parametrize("steps", STEPS)
def test_inverted_one_has_the_samplers_sigmas_towards_the_data_at_any_number_of_steps(steps, tmp_path):
    """In a pipeline that hands over even sigmas and whose time is 1 at the data."""
    even = [1 - step / steps for step in range(steps)]
    names = {"FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler}
    made = inverted_scheduler()
    stock = reloaded(eval(f"FlowMatchEulerDiscreteScheduler({inverted_settings(made)})", names), tmp_path)
    ours = TwinFlowScheduler(invert_sigmas=True, num_train_timesteps=1)
    x, velocity = torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    drawn = []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(sigmas=even)
        sample = x
        for time in scheduler.timesteps:
            sample = scheduler.step(velocity * (1 + time), time, sample, return_dict=False)[0]
        drawn.append(sample)
    torch.testing.assert_close(stock.timesteps, ours.timesteps)
    torch.testing.assert_close(*drawn)
