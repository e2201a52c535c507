"""Text-to-image pipelines with Qwen's text encoders, complete and tiny, with random weights: one function a family."""

import diffusers

from testbed.pipelines import encoders, parts, tokenizers
from testbed.pipelines.encoders import WIDTH
from testbed.pipelines.parts import HEADS, SHIFT_BY_SIZE


def qwen_image() -> diffusers.DiffusionPipeline:
    """Qwen-Image 2.1, the host's default flavour."""
    network = diffusers.QwenImage21Transformer2DModel(
        num_layers=1, **HEADS, context_in_dim=WIDTH, mlp_ratio=2, axes_dims_rope=(4, 6, 6)
    )
    vae = diffusers.AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, dim_mult=[1] * 5, num_res_blocks=1)
    return diffusers.QwenImage21Pipeline(
        transformer=network,
        vae=vae,
        text_encoder=encoders.qwen3_vl(3, generates=True),
        processor=tokenizers.qwen_processor(),
        scheduler=parts.flow(**SHIFT_BY_SIZE, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02),
    )


def qwen_image_1() -> diffusers.DiffusionPipeline:
    """Qwen-Image."""
    network = diffusers.QwenImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=2, **HEADS, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6)
    )
    return diffusers.QwenImagePipeline(
        transformer=network,
        vae=_qwen_autoencoder(),
        text_encoder=encoders.qwen25_vl(),
        tokenizer=tokenizers.qwen_tokenizer(),
        scheduler=parts.flow(**SHIFT_BY_SIZE, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02),
    )


def krea2() -> diffusers.DiffusionPipeline:
    """Krea 2."""
    network = diffusers.Krea2Transformer2DModel(
        in_channels=64,
        num_layers=1,
        **HEADS,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=32,
        text_hidden_dim=WIDTH,
        num_text_layers=12,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.Krea2Pipeline(
        transformer=network,
        vae=_qwen_autoencoder(),
        text_encoder=encoders.qwen3_vl(36, generates=False),  # the pipeline takes the outputs of 12 of 36 layers
        tokenizer=tokenizers.qwen_tokenizer(),
        scheduler=parts.flow(use_dynamic_shifting=True),
    )


def _qwen_autoencoder() -> diffusers.AutoencoderKLQwenImage:
    return diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1)
