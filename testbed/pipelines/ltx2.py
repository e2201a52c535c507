"""LTX-Video 2, complete and tiny, with random weights: video and sound in one network, each with a VAE of its own."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

from testbed.pipelines import encoders, parts
from testbed.pipelines.encoders import WIDTH
from testbed.pipelines.tokenizers import gemma_tokenizer

LAYERS = 2  # of the text encoder, each of which is read, as are its embeddings
TEXT_WIDTH = WIDTH * (LAYERS + 1)
NETWORK: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "num_layers": 1,
    "caption_channels": WIDTH,
    "rope_double_precision": False,
    "rope_type": "split",
}


def ltx2() -> diffusers.DiffusionPipeline:
    """As Lightricks' first repository of LTX-Video 2 holds it."""
    vocoder = LTX2Vocoder(
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
    )
    return diffusers.LTX2Pipeline(
        transformer=diffusers.LTX2VideoTransformer3DModel(**NETWORK),
        vae=video_vae(),
        audio_vae=audio_vae(),
        text_encoder=encoders.gemma3(LAYERS),
        tokenizer=gemma_tokenizer(),
        connectors=connectors(registers=128),
        vocoder=vocoder,
        scheduler=parts.flow(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
    )


def connectors(registers: int | None = None) -> LTX2TextConnectors:
    """Makes what the network is given of the text encoder's states. Args: registers: fill a prompt up to its length."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": WIDTH // 2, "num_layers": 1}
    given = {f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in sizes.items()}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return LTX2TextConnectors(
            **given,
            video_connector_num_learnable_registers=registers,
            audio_connector_num_learnable_registers=registers,
            caption_channels=WIDTH,
            text_proj_in_factor=LAYERS + 1,
            rope_double_precision=False,
            rope_type="split",
        )


def video_vae() -> diffusers.AutoencoderKLLTX2Video:
    """32 pixels of an edge to a latent, 8 frames to a latent after the first."""
    return diffusers.AutoencoderKLLTX2Video(
        block_out_channels=(8, 16, 32, 32),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


def audio_vae() -> diffusers.AutoencoderKLLTX2Audio:
    """Latents of eight channels, sixteen frequencies and 25 a second, as of the large one."""
    return diffusers.AutoencoderKLLTX2Audio(ch_mult=(1, 1, 1), num_res_blocks=1)


def write_beside(folder: Path) -> None:
    """Write what the host loads beside the network to train it with cached text. Args: folder: the pipeline's."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = {"connectors": connectors(), "vae": video_vae(), "audio_vae": audio_vae()}
    for name, part in made.items():
        part.save_pretrained(folder / name)
