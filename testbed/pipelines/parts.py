"""Schedulers, auto-encoders and CLIP tokenizers of the tiny pipelines."""

from typing import Any

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
FLUX_LATENTS: dict[str, Any] = {
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
BLOCKS: dict[str, Any] = {  # an auto-encoder that makes an image an eighth as wide
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
SHIFT_BY_SIZE: dict[str, Any] = {"use_dynamic_shifting": True, "base_shift": 0.5, "base_image_seq_len": 256}


def autoencoder(channels: int, **more: Any) -> AutoencoderKL:
    """Args: channels: of the latents. more: of the class."""
    return AutoencoderKL(latent_channels=channels, **BLOCKS | more)


def flow(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that most flow-matching pipelines come with."""
    return FlowMatchEulerDiscreteScheduler(**settings)
