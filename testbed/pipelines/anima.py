"""Anima, complete and tiny, with random weights: its network lies on disk as two, and is one."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from testbed.pipelines import encoders, parts, tokenizers
from testbed.pipelines.encoders import WIDTH
from testbed.tiny_sd3 import build_t5_tokenizer

ADAPTER = "llm_adapter"  # the folder of the network's part that reads the prompt
NETWORK: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "text_embed_dim": WIDTH,
    "adaln_lora_dim": 16,
    "max_size": (8, 16, 16),
    "adapter_vocab_size": 1024,
    "adapter_dim": WIDTH,
    "adapter_layers": 1,
    "adapter_heads": 2,
}


class Anima:
    """The parts of a pipeline, each in its folder; its class saves them otherwise than the host reads them."""

    config = ()

    def __init__(self) -> None:
        from simpletuner.helpers.models.anima.transformer import AnimaTransformerModel

        self.transformer = AnimaTransformerModel(**NETWORK)
        self.parts = {
            "vae": vae(),
            "text_encoder": encoders.qwen3().model,
            "tokenizer": tokenizers.qwen_tokenizer(512),
            "t5_tokenizer": build_t5_tokenizer(),
            "scheduler": parts.flow(shift=3.0),
        }

    def save_pretrained(self, folder: Path) -> None:
        """Write all of it."""
        write_network(self.transformer, folder)
        for name, part in self.parts.items():
            part.save_pretrained(folder / name)


def write_random(folder: Path) -> None:
    """Write a network whose output depends on all of its weights, and a scheduler."""
    from simpletuner.helpers.models.anima.transformer import AnimaTransformerModel

    network, generator = AnimaTransformerModel(**NETWORK), torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    write_network(network, folder)
    parts.flow().save_pretrained(folder / "scheduler")


def write_network(network: Any, folder: Path) -> None:
    """Write an Anima network's two parts, each in its folder."""
    network.core.save_pretrained(folder / "transformer")
    (folder / ADAPTER).mkdir(parents=True, exist_ok=True)
    save_file(network.llm_adapter.state_dict(), folder / ADAPTER / "diffusion_pytorch_model.safetensors")
    sizes = {
        "vocab_size": network.config.adapter_vocab_size,
        "model_dim": network.config.adapter_dim,
        "num_layers": network.config.adapter_layers,
        "num_heads": network.config.adapter_heads,
    }
    (folder / ADAPTER / "config.json").write_text(json.dumps(sizes), encoding="utf-8")


def vae() -> diffusers.AutoencoderKLQwenImage:
    """Its pipeline reads the latents' statistics."""
    return diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1)
