"""A complete Stable Diffusion XL pipeline folder at toy size, with random weights, for runs of the real host."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from demo.tiny_sd3 import build_clip, build_clip_tokenizer

WIDTH = 32  # of the demo's CLIP
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write_sdxl(folder: Path, **schedule: Any) -> Path:
    """A Stable Diffusion XL pipeline. Args: schedule: of its scheduler, beside SDXL's betas; epsilon by default."""
    torch.manual_seed(0)
    network = _unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    StableDiffusionXLPipeline(
        unet=network,
        vae=_vae(),
        scheduler=EulerDiscreteScheduler(**BETAS, **schedule, timestep_spacing="leading", steps_offset=1),
        text_encoder=_text_encoder(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=build_clip(),
        tokenizer_2=build_clip_tokenizer(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **changes,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 16, 16],
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )


def _text_encoder() -> CLIPTextModel:
    return CLIPTextModel(build_clip().config)
