"""Text-to-image pipelines that match flows, complete and tiny, with random weights: one function a family."""

import diffusers

from testbed.pipelines import encoders, parts, tokenizers
from testbed.pipelines.encoders import WIDTH
from testbed.pipelines.parts import FLUX_LATENTS, HEADS, SHIFT_BY_SIZE
from testbed.tiny_sd3 import build_clip, build_clip_tokenizer, build_t5_tokenizer

STREAMS = {"num_layers": 1, "num_single_layers": 1}


def sana() -> diffusers.DiffusionPipeline:
    """Sana."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_types": "ResBlock",
            "block_out_channels": (8,) * 6,
            "layers_per_block": (1,) * 6,
            "qkv_multiscales": ((),) * 6,
        }.items()
    }
    vae = diffusers.AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        **sides,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=0.41407,
    )
    network = diffusers.SanaTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=16,  # its pipeline then bins to the sizes around 512
    )
    return diffusers.SanaPipeline(
        transformer=network,
        vae=vae,
        text_encoder=encoders.gemma2(),
        tokenizer=tokenizers.gemma_tokenizer(),
        scheduler=parts.flow(shift=3.0),
    )


def flux() -> diffusers.DiffusionPipeline:
    """FLUX.1 dev."""
    network = diffusers.FluxTransformer2DModel(
        **STREAMS,
        **HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    tokenizer = build_t5_tokenizer()
    return diffusers.FluxPipeline(
        transformer=network,
        vae=parts.autoencoder(16, **FLUX_LATENTS),
        text_encoder=encoders.clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=encoders.t5(tokenizer),
        tokenizer_2=tokenizer,
        scheduler=parts.flow(shift=3.0, **SHIFT_BY_SIZE, max_shift=1.15, max_image_seq_len=4096),
    )


def flux2() -> diffusers.DiffusionPipeline:
    """FLUX.2 klein."""
    network = diffusers.Flux2Transformer2DModel(
        **STREAMS,
        **HEADS,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return diffusers.Flux2KleinPipeline(
        transformer=network,
        vae=diffusers.AutoencoderKLFlux2(latent_channels=32, **parts.BLOCKS),
        text_encoder=encoders.qwen3(28),  # the pipeline takes the outputs of layers 9, 18 and 27
        tokenizer=tokenizers.qwen_tokenizer(512),
        scheduler=parts.flow(shift=3.0, use_dynamic_shifting=True),
        is_distilled=False,
    )


def z_image() -> diffusers.DiffusionPipeline:
    """Z-Image."""
    network = diffusers.ZImageTransformer2DModel(
        in_channels=16,
        dim=64,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[1024, 64, 64],
    )
    return diffusers.ZImagePipeline(
        transformer=network,
        vae=parts.autoencoder(16, **FLUX_LATENTS),
        text_encoder=encoders.qwen3(),
        tokenizer=tokenizers.qwen_tokenizer(512),
        scheduler=parts.flow(shift=3.0),
    )


def chroma() -> diffusers.DiffusionPipeline:
    """Chroma."""
    network = diffusers.ChromaTransformer2DModel(
        **STREAMS,
        **HEADS,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    tokenizer = build_t5_tokenizer()
    return diffusers.ChromaPipeline(
        transformer=network,
        vae=parts.autoencoder(16, **FLUX_LATENTS),
        text_encoder=encoders.t5(tokenizer),
        tokenizer=tokenizer,
        scheduler=parts.flow(),
    )


def auraflow() -> diffusers.DiffusionPipeline:
    """AuraFlow."""
    network = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    tokenizer = tokenizers.llama_tokenizer()
    return diffusers.AuraFlowPipeline(
        transformer=network,
        vae=parts.autoencoder(4, scaling_factor=0.13025),
        text_encoder=encoders.t5(tokenizer, "UMT5"),
        tokenizer=tokenizer,
        scheduler=parts.flow(shift=1.73),
    )


def lumina2() -> diffusers.DiffusionPipeline:
    """Lumina-Image 2."""
    network = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(512, 64, 64),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=network,
        vae=parts.autoencoder(16, **FLUX_LATENTS),
        text_encoder=encoders.gemma2(),
        tokenizer=tokenizers.gemma_tokenizer(),
        scheduler=parts.flow(shift=6.0),
    )


def hidream() -> diffusers.DiffusionPipeline:
    """HiDream-I1."""
    network = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        **STREAMS,
        **HEADS,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(16, 16),
        llama_layers=[0, 1],
    )
    t5_tokenizer = build_t5_tokenizer()
    return diffusers.HiDreamImagePipeline(
        transformer=network,
        vae=parts.autoencoder(16, **FLUX_LATENTS),
        text_encoder=build_clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=build_clip(),
        tokenizer_2=build_clip_tokenizer(),
        text_encoder_3=encoders.t5(t5_tokenizer),
        tokenizer_3=t5_tokenizer,
        text_encoder_4=encoders.llama(),
        tokenizer_4=tokenizers.llama_tokenizer(),
        scheduler=parts.flow(shift=3.0),
    )
