"""Pipelines that predict epsilon or v, complete and tiny, with random weights: one function a family."""

from typing import Any

import diffusers

from testbed.pipelines import encoders, parts
from testbed.pipelines.encoders import WIDTH
from testbed.tiny_sd3 import build_clip, build_clip_tokenizer, build_t5_tokenizer

SDXL_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd1x() -> diffusers.DiffusionPipeline:
    """Stable Diffusion 1."""
    return diffusers.StableDiffusionPipeline(
        unet=unet(cross_attention_dim=WIDTH),
        vae=parts.autoencoder(4),
        text_encoder=encoders.clip(),
        tokenizer=build_clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        scheduler=diffusers.DDIMScheduler(**SDXL_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )


def sdxl(**schedule: Any) -> diffusers.DiffusionPipeline:
    """Stable Diffusion XL. Args: schedule: of its scheduler, beside SDXL's betas; epsilon by default."""
    network = unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return diffusers.StableDiffusionXLPipeline(
        unet=network,
        vae=parts.autoencoder(4),
        text_encoder=encoders.clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=build_clip(),
        tokenizer_2=build_clip_tokenizer(),
        scheduler=diffusers.EulerDiscreteScheduler(
            **SDXL_BETAS, **schedule, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
    )


def pixart() -> diffusers.DiffusionPipeline:
    """PixArt Sigma."""
    network = diffusers.PixArtTransformer2DModel(
        sample_size=32,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    tokenizer = build_t5_tokenizer()
    return diffusers.PixArtSigmaPipeline(
        transformer=network,
        vae=parts.autoencoder(4, scaling_factor=0.13025),
        text_encoder=encoders.t5(tokenizer),
        tokenizer=tokenizer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    """Two levels of a U-Net for latents of 8 x 8. Args: changes: of the class."""
    return diffusers.UNet2DConditionModel(
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
