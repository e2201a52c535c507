"""Text-to-image pipelines that SimpleTuner alone has, complete and tiny, with random weights: one function a family."""

from typing import Any

import diffusers
from diffusers import AutoencoderKL

from testbed.pipelines import encoders, parts, tokenizers
from testbed.pipelines.encoders import WIDTH


def zlab_i1() -> diffusers.DiffusionPipeline:
    """i1, with the auto-encoder of FLUX.2 and T5Gemma's encoder."""
    from simpletuner.helpers.models.zlab_i1.pipeline import ZlabI1Pipeline
    from simpletuner.helpers.models.zlab_i1.transformer import ZlabI1Transformer2DModel

    network = ZlabI1Transformer2DModel(
        input_size=8,
        image_resolution=64,
        in_channels=32,
        hidden_size=32,
        depth=3,
        num_heads=2,
        text_embed_dim=WIDTH,
        text_num_tokens=256,
    )
    plain: dict[str, Any] = {"use_quant_conv": False, "use_post_quant_conv": False}
    vae: AutoencoderKL = parts.autoencoder(32, **plain)
    tokenizer = tokenizers.gemma_tokenizer()
    return ZlabI1Pipeline(
        transformer=network,
        vae=vae,
        text_encoder=encoders.t5gemma(),
        tokenizer=tokenizer,
        scheduler=parts.flow(shift=2.02, use_dynamic_shifting=True),
    )


def flux3_klein() -> diffusers.DiffusionPipeline:
    """FLUX.3 Image klein, whose network knows a target time."""
    from simpletuner.helpers.models.flux2.autoencoder import AutoencoderKLFlux2
    from simpletuner.helpers.models.flux3_image.pipeline import Flux3ImagePipeline
    from simpletuner.helpers.models.flux3_image.transformer import Flux3ImageTransformer2DModel

    network = Flux3ImageTransformer2DModel(
        joint_attention_dim=8 * WIDTH,  # of the outputs of 8 layers
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        axes_dims_rope=(4, 4, 4, 4),
        timestep_channels=32,
        flow_map=True,
    )
    return Flux3ImagePipeline(
        transformer=network,
        vae=AutoencoderKLFlux2(latent_channels=32, **parts.BLOCKS),
        text_encoder=encoders.qwen3_vl(33, generates=False),
        tokenizer=tokenizers.qwen_tokenizer(8192),
        scheduler=parts.flow(shift=6.93),
    )
