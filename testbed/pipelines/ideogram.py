"""Ideogram 4, complete and tiny, with random weights, as diffusers and as SimpleTuner read it from the hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from testbed.pipelines import encoders, parts, tokenizers
from testbed.pipelines.encoders import WIDTH

READ_LAYERS = 13  # of the text encoder's 36
WEIGHTS = "diffusion_pytorch_model.safetensors"
FUSED, PROJECTION = "fused", "text_projection"  # folders of a pipeline's, beside its own parts
NETWORK: dict[str, Any] = {  # by SimpleTuner's names and in their order
    "emb_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 64,
    "adanln_dim": 16,
    "in_channels": 128,
    "llm_features_dim": READ_LAYERS * WIDTH,
    "rope_theta": 5_000_000,
    "mrope_section": (4, 2, 2),
    "norm_eps": 1e-5,
}
VAE_CHANNELS = 32  # of its first layer, as few as its norms allow


def ideogram() -> diffusers.DiffusionPipeline:
    """As diffusers has it."""

    def network() -> diffusers.Ideogram4Transformer2DModel:
        return diffusers.Ideogram4Transformer2DModel(
            in_channels=NETWORK["in_channels"],
            num_layers=NETWORK["num_layers"],
            attention_head_dim=NETWORK["emb_dim"] // NETWORK["num_heads"],
            num_attention_heads=NETWORK["num_heads"],
            intermediate_size=NETWORK["intermediate_size"],
            adaln_dim=NETWORK["adanln_dim"],
            llm_features_dim=NETWORK["llm_features_dim"],
            mrope_section=NETWORK["mrope_section"],
        )

    edges = [VAE_CHANNELS * factor for factor in (1, 2, 4, 4)]
    attention = {"norm_num_groups": 32, "mid_block_add_attention": True, "block_out_channels": edges}
    return diffusers.Ideogram4Pipeline(
        transformer=network(),
        unconditional_transformer=network(),
        vae=diffusers.AutoencoderKLFlux2(latent_channels=32, **parts.BLOCKS | attention),
        text_encoder=encoders.qwen3_vl(36, generates=False),
        tokenizer=tokenizers.qwen_tokenizer(2048),
        scheduler=parts.flow(),
    )


def write_fused(folder: Path) -> None:
    """Write the network beside a pipeline as SimpleTuner reads it, and its projection of prompts, in this folder."""
    weights = fused(load_file(folder / "transformer" / WEIGHTS))
    (folder / FUSED / "transformer").mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / FUSED / "transformer" / WEIGHTS, {"format": "pt"})
    (folder / PROJECTION).mkdir(exist_ok=True)
    sizes = {name: NETWORK[name] for name in ("llm_features_dim", "emb_dim")}
    (folder / PROJECTION / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    projects = {name: weight for name, weight in weights.items() if name.startswith("llm_cond_")}
    save_file(projects, folder / PROJECTION / "model.safetensors", {"format": "pt"})


def fused(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of diffusers' network by SimpleTuner's names, with one matrix for query, key and value."""
    found = {}
    for name, weight in weights.items():
        if ".attention.to_q." in name:
            whole = [weights[name.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
            found[name.replace("to_q", "qkv")] = torch.cat(whole)
        elif not any(part in name for part in (".attention.to_k.", ".attention.to_v.")):
            found[name.replace("attention.to_out.0", "attention.o")] = weight
    return found


def shrink() -> None:
    """Make SimpleTuner's Ideogram tiny in this process: it has the sizes of network and VAE in its code alone."""
    from simpletuner.helpers.models.ideogram.autoencoder import AutoEncoderParams
    from simpletuner.helpers.models.ideogram.transformer import Ideogram4Config

    Ideogram4Config.__init__.__defaults__ = tuple(NETWORK.values())
    resolution, channels, _, out, multiples, _, latents = AutoEncoderParams.__init__.__defaults__
    AutoEncoderParams.__init__.__defaults__ = (resolution, channels, VAE_CHANNELS, out, multiples, 1, latents)
