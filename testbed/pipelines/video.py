"""Text-to-video pipelines, complete and tiny, with random weights: one function a family."""

import diffusers

from testbed.pipelines import encoders, parts
from testbed.pipelines.encoders import WIDTH
from testbed.tiny_sd3 import build_t5_tokenizer


def wan() -> diffusers.DiffusionPipeline:
    """Wan 2.1."""
    network = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=64,
    )
    tokenizer = build_t5_tokenizer()
    vae = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return diffusers.WanPipeline(
        transformer=network,
        vae=vae,
        text_encoder=encoders.t5(tokenizer, "UMT5"),
        tokenizer=tokenizer,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def ltxvideo() -> diffusers.DiffusionPipeline:
    """LTX-Video."""
    network = diffusers.LTXVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=1, caption_channels=WIDTH
    )
    tokenizer = build_t5_tokenizer()
    vae = diffusers.AutoencoderKLLTXVideo(
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    return diffusers.LTXPipeline(
        transformer=network,
        vae=vae,
        text_encoder=encoders.t5(tokenizer),
        tokenizer=tokenizer,
        scheduler=parts.flow(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
        ),
    )
