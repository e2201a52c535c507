"""How close stock diffusers comes to the few-step sampler of epsilon and v models."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, LCMScheduler

from simpletuner_twinflow import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.stock import (
    stock_diffusion_scheduler,
    stock_diffusion_settings,
    stock_timesteps,
)
from tests.sampling.diffusion_oracles import SDXL
from tests.sampling.diffusion_pipelines import KINDS, ZERO_SNR, oracle_pipeline, scheduler_of

# Stock pipelines ask for steps_offset 1, a setting that LCMScheduler does not use.
pytestmark = pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
STEPS = pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
kinds = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())


def picture(scheduler, settings, **how):
    pipeline, prompt = oracle_pipeline(scheduler, settings)
    pipeline.set_progress_bar_config(disable=True)
    size = 16 * pipeline.vae_scale_factor
    return pipeline(
        **prompt, height=size, width=size, guidance_scale=0.0, output_type="latent", num_images_per_prompt=16,
        generator=torch.Generator().manual_seed(0), **how,
    ).images  # fmt: skip


@kinds
@STEPS
def test_at_the_samplers_timesteps_it_draws_the_samplers_picture_from_the_same_seed(settings, steps):
    ours = picture(scheduler_of(settings), settings, num_inference_steps=steps)
    config = DDPMScheduler(**settings).config
    stock = stock_diffusion_scheduler(config, steps)
    theirs = picture(stock, settings, timesteps=stock_timesteps(config, steps))
    assert (ours - theirs).square().mean().sqrt() < 0.001
    assert stock_timesteps(config, steps)[0] == 999


@kinds
@STEPS
def test_by_its_own_spacing_it_draws_nearly_the_same_picture(settings, steps):
    ours = picture(scheduler_of(settings), settings, num_inference_steps=steps)
    stock = stock_diffusion_scheduler(DDPMScheduler(**settings).config, steps)
    theirs = picture(stock, settings, num_inference_steps=steps)
    assert (ours - theirs).square().mean().sqrt() < 0.05
    assert stock.timesteps[0] == 999
    ours = scheduler_of(settings)
    ours.set_timesteps(steps)
    assert (ours.path.sigma(stock.timesteps) - ours.path.sigma(ours.timesteps)).abs().max() < 0.07


@pytest.mark.parametrize("stock", [DDPMScheduler, EulerDiscreteScheduler])
def test_it_takes_the_models_schedule_and_prediction_and_clips_nothing(stock, tmp_path):
    made = stock_diffusion_scheduler(stock(**ZERO_SNR).config, 2)
    made.save_pretrained(tmp_path)
    loaded = LCMScheduler.from_pretrained(tmp_path)
    expected = TwinFlowDiffusionScheduler(**ZERO_SNR)
    torch.testing.assert_close(loaded.alphas_cumprod, expected.alphas_cumprod)
    assert loaded.config.prediction_type == "v_prediction"
    assert loaded.config.clip_sample is False  # DDPMScheduler's own default is to clip
    loaded.set_timesteps(2)
    assert loaded.timesteps[0] == 999


def test_the_schedule_is_the_models_also_where_that_is_a_default():
    made = stock_diffusion_scheduler(DDPMScheduler().config, 2)  # PixArt's
    torch.testing.assert_close(made.alphas_cumprod, DDPMScheduler().alphas_cumprod)


def test_an_epsilon_model_without_signal_at_its_last_time_has_none():
    assert stock_diffusion_scheduler(DDPMScheduler(**SDXL, rescale_betas_zero_snr=True).config, 2) is None


@pytest.mark.parametrize("made_for", range(1, 9))
def test_exported_scheduler_works_or_refuses_at_every_number_of_steps(made_for):
    settings = KINDS["v_prediction"]
    stock = stock_diffusion_scheduler(DDPMScheduler(**settings).config, made_for)
    path, served = scheduler_of(settings).path, []
    for steps in range(1, 9):
        try:
            stock.set_timesteps(steps)
        except ValueError as refusal:
            assert "num_inference_steps" in str(refusal)  # noqa: PT017 - it works or it refuses
            continue
        served.append(steps)
        times = stock.timesteps.tolist()
        assert times[0] == 999
        assert times == sorted(set(times), reverse=True)
        assert path.sigma(stock.timesteps).isfinite().all()
    assert served == list(range(1, max(served) + 1))
    assert max(served) == (8 if made_for != 4 else 5)


@kinds
def test_settings_make_the_same_scheduler_anew_and_name_what_is_the_models_own(settings):
    stock = stock_diffusion_scheduler(DDPMScheduler(**settings).config, 2)
    given = stock_diffusion_settings(stock)
    made = LCMScheduler(**given)
    public = {name: value for name, value in stock.config.items() if not name.startswith("_")}
    assert public == {name: value for name, value in made.config.items() if not name.startswith("_")}
    assert given.items() >= {"prediction_type": stock.config.prediction_type, "beta_end": 0.012}.items()
    assert given["beta_schedule"] == "scaled_linear"  # also the class's own default
