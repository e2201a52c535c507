"""Cosmos 3, complete and tiny, with random weights, whose parts SimpleTuner loads by themselves."""

import json
import re
from pathlib import Path
from typing import Any

import diffusers
from safetensors.torch import load_file, save_file

from testbed.pipelines import tokenizers
from testbed.pipelines.tokenizers import QWEN_VOCABULARY

GENERATOR, REASONER = "generator", "reasoner"  # folders of a pipeline's, beside its own parts
WEIGHTS = "diffusion_pytorch_model.safetensors"
READS = re.compile(  # the weights that read the prompt
    r"(embed_tokens|norm|layers\.\d+\.(input_layernorm|post_attention_layernorm|mlp\.\w+|"
    r"self_attn\.(to_[qkv]|to_out|norm_[qk])))\.weight"
)
LYCORIS = {  # as in SimpleTuner's examples
    "bypass_mode": True,
    "algo": "lokr",
    "multiplier": 1.0,
    "full_matrix": True,
    "linear_dim": 10000,
    "linear_alpha": 1,
    "factor": 4,
    "apply_preset": {"target_module": ["Cosmos3PackedMoTAttention"]},
}
CHANNELS = 4
NETWORK: dict[str, Any] = {
    "hidden_size": 32,
    "head_dim": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "latent_channel": CHANNELS,
    "patch_latent_dim": 4 * CHANNELS,
    "rope_axes_dim": (4, 2, 2),
    "vocab_size": QWEN_VOCABULARY,
}


def cosmos3() -> diffusers.DiffusionPipeline:
    """As NVIDIA's repositories hold it: one network that reads the prompt and makes the picture."""
    vae = diffusers.AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )
    return diffusers.Cosmos3OmniPipeline(
        transformer=diffusers.Cosmos3OmniTransformer(**NETWORK),
        text_tokenizer=tokenizers.qwen_tokenizer(4096),
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        enable_safety_checker=False,
    )


def write_parts(folder: Path) -> None:
    """Write the two halves of a pipeline's network beside it, as SimpleTuner publishes them. Args: folder: its own."""
    network = folder / "transformer"
    weights, config = load_file(network / WEIGHTS), json.loads((network / "config.json").read_text(encoding="utf-8"))
    reads = {name: weight for name, weight in weights.items() if READS.fullmatch(name)}
    draws = {name: weight for name, weight in weights.items() if name not in reads and not name.startswith("lm_head.")}
    _write(folder / GENERATOR, WEIGHTS, draws, config | {"load_reasoning_layers": False})
    _write(folder / REASONER, "model.safetensors", reads, config | {"component": "cosmos3_reasoner"})
    (folder / "lycoris.json").write_text(json.dumps(LYCORIS), encoding="utf-8")


def _write(folder: Path, name: str, weights: dict[str, Any], config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / name, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
