"""Stock pipelines of flow models draw with the flow scheduler."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)

from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.pipelines import EVEN_SIGMAS
from simpletuner_twinflow.sampling.stock import stock_scheduler
from tests.cli.command import BASE


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


def tiny_base():
    """The demo's trained base, with its text encoders."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"prompt": "a handwritten digit 3", "max_sequence_length": 8}


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


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(
    "make", [lambda: tiny_sd3(StableDiffusion3Pipeline), tiny_flux, tiny_base], ids=["sd3", "flux", "demo"]
)
def test_stock_pipelines_draw_the_same_picture_with_the_exported_scheduler(make, steps):
    """To the last of 255 levels."""
    pipeline, prompt = make()
    size, even = 64 if "prompt" in prompt else 4, type(pipeline).__name__ in EVEN_SIGMAS
    pictures = []
    for scheduler in (TwinFlowScheduler(), stock_scheduler(steps, even_sigmas=even)):
        pipeline.scheduler = scheduler
        picture = pipeline(
            **prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=0.0, output_type="np",
            generator=torch.Generator().manual_seed(1),
        ).images  # fmt: skip
        pictures.append(np.round(255 * picture))
    assert pictures[0].std() > 5, "a picture, not one colour"
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_in_bf16_the_picture_of_the_exported_scheduler_differs_by_rounding():
    """docs/sampling.md says by how much; a sigma that is off by 0.02 moves the mean by more."""
    pipeline, prompt = tiny_base()
    pipeline.to(torch.bfloat16)
    pictures = []
    for scheduler in (TwinFlowScheduler(time_dtype="bfloat16"), stock_scheduler(4)):
        pipeline.scheduler = scheduler
        picture = pipeline(
            **prompt, height=64, width=64, num_inference_steps=4, guidance_scale=0.0, output_type="np",
            generator=torch.Generator().manual_seed(1),
        ).images  # fmt: skip
        pictures.append(np.round(255 * picture))
    apart = np.abs(pictures[0] - pictures[1])
    assert 0 < apart.max() <= 8
    assert apart.mean() < 0.4


def test_a_stock_image_to_image_pipeline_begins_in_the_middle_of_it():
    pipeline, prompt = tiny_sd3(StableDiffusion3Img2ImgPipeline)
    steps = []
    pipeline(
        **prompt, image=torch.zeros(1, 4, 4, 4), strength=0.5, num_inference_steps=4, guidance_scale=0.0,
        height=4, width=4, output_type="latent",
        callback_on_step_end=lambda pipeline, step, timestep, kwargs: steps.append(float(timestep)) or {},
    )  # fmt: skip
    assert steps == pytest.approx([409.4029, 250.0])
