"""The contract of a diffusers scheduler; what sampling makes is in test_sampling, its levels in test_levels."""

import inspect

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.scheduler import TwinFlowScheduler
from tests.pipeline import run


def test_pipelines_find_what_they_look_for():
    scheduler = TwinFlowScheduler(num_train_timesteps=1000, prediction_type="flow_matching", shift=1.0)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.order == 1
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.config.base_image_seq_len == 256
    assert scheduler.config.max_image_seq_len == 4096
    assert scheduler.config.base_shift == 0.5
    assert scheduler.config.max_shift == 1.15
    assert scheduler.config.use_dynamic_shifting is False
    assert {"sigmas", "timesteps", "mu"} <= set(inspect.signature(scheduler.set_timesteps).parameters)
    assert "generator" in inspect.signature(scheduler.step).parameters
    x = torch.randn(2, 3)
    assert scheduler.scale_model_input(x, scheduler.timesteps[0]) is x
    assert scheduler.timesteps.dtype == scheduler.sigmas.dtype == torch.float32


def test_the_configuration_survives_saving_and_loading(tmp_path):
    settings = {"shift": 2.0, "style": "multi", "stochastic_ratio": 0.25, "extrapolation": 0.1, "seed": 5,
                "kumaraswamy": (1.17, 0.8, 1.1), "sigma_max": 0.99, "sigma_min": 0.0}  # fmt: skip
    scheduler = TwinFlowScheduler(**settings)
    scheduler.save_pretrained(tmp_path)
    for loaded in (TwinFlowScheduler.from_pretrained(tmp_path), TwinFlowScheduler.from_config(scheduler.config)):
        assert loaded.settings == scheduler.settings
        assert loaded.config.seed == 5


def test_it_can_take_over_from_a_stock_scheduler():
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0, base_shift=0.7, use_dynamic_shifting=True)
    ours = TwinFlowScheduler.from_config(stock.config)
    assert ours.shift == 3.0
    assert ours.config.base_shift == 0.7
    assert ours.config.use_dynamic_shifting is True
    ours.set_timesteps(2)  # the stock one would ask for mu


def test_image_to_image_begins_in_the_middle():
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    x, z = torch.full((1, 3), 0.4), torch.randn(1, 3)
    started = scheduler.scale_noise(x, scheduler.timesteps[2:3], z)
    torch.testing.assert_close(started, 0.6663333 * z + (1 - 0.6663333) * x)
    velocity = torch.randn(1, 3)
    stepped = scheduler.step(velocity, scheduler.timesteps[2], started).prev_sample
    torch.testing.assert_close(stepped, started - float(scheduler.sigmas[2] - scheduler.sigmas[3]) * velocity)
    assert scheduler.step_index == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_timestep_is_found_after_a_trip_through_the_models_dtype(dtype):
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(4)
    assert [scheduler.index_for_timestep(t.to(dtype)) for t in scheduler.timesteps] == [0, 1, 2, 3]


def test_of_two_equal_timesteps_the_call_that_opens_an_interval_is_meant():
    scheduler = TwinFlowScheduler(style="multi", solver_order=2)
    scheduler.set_timesteps(5)
    assert [scheduler.index_for_timestep(t) for t in scheduler.timesteps] == [0, 2, 2, 4, 4]


def test_a_timestep_off_the_schedule_is_refused():
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.step(torch.zeros(1, 1), 0, torch.zeros(1, 1))  # the place in place of the timestep


def test_a_step_beyond_the_end_is_refused():
    scheduler = TwinFlowScheduler()
    run(scheduler, torch.randn(1, 2), 2)
    with pytest.raises(TwinFlowError, match="call set_timesteps"):
        scheduler.step(torch.zeros(1, 2), scheduler.timesteps[-1], torch.zeros(1, 2))


def tiny_sd3(kind):
    """A stock Stable Diffusion 3 pipeline at toy size, and the arguments that stand for its text encoders."""
    transformer = SD3Transformer2DModel(
        sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)
    encoders = dict.fromkeys(f"{part}{which}" for part in ("text_encoder", "tokenizer") for which in ("", "_2", "_3"))
    pipeline = kind(transformer=transformer, vae=vae, scheduler=TwinFlowScheduler(), **encoders)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


def tiny_flux():
    """A stock Flux pipeline, which passes sigmas and a mu worked out of the configuration."""
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)
    pipeline = FluxPipeline(
        transformer=transformer, vae=vae, scheduler=TwinFlowScheduler(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


@pytest.mark.parametrize("make", [lambda: tiny_sd3(StableDiffusion3Pipeline), tiny_flux], ids=["sd3", "flux"])
def test_stock_pipelines_sample_with_it_reproducibly_from_a_seed(make):
    pipeline, prompt = make()

    def picture(seed):
        return pipeline(
            **prompt, height=4, width=4, num_inference_steps=2, guidance_scale=0.0, output_type="latent",
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip

    before, first = torch.get_rng_state(), picture(1)
    assert torch.isfinite(first).all()
    assert torch.equal(picture(1), first)
    assert not torch.equal(picture(2), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(pipeline.scheduler.timesteps) == 2


def test_a_stock_image_to_image_pipeline_begins_in_the_middle_of_it():
    pipeline, prompt = tiny_sd3(StableDiffusion3Img2ImgPipeline)
    steps = []
    pipeline(
        **prompt, image=torch.zeros(1, 4, 4, 4), strength=0.5, num_inference_steps=4, guidance_scale=0.0,
        height=4, width=4, output_type="latent",
        callback_on_step_end=lambda pipeline, step, timestep, kwargs: steps.append(float(timestep)) or {},
    )  # fmt: skip
    assert steps == pytest.approx([666.3333, 500.0])
