"""Published networks' shapes, and a tiny one of each class."""

from dataclasses import dataclass
from typing import Any

from diffusers import SanaTransformer2DModel, SD3Transformer2DModel
from torch import nn


@dataclass(frozen=True)
class Shape:
    """A published network's shape, and a tiny one of the same class."""

    family: str
    network: type[nn.Module]
    config: dict[str, Any]
    tiny: dict[str, Any]
    tokens: int
    pooled: bool
    size: int
    """Of the latents' sides."""


SHAPES = {
    "SD3.5-medium, 512 px": Shape(
        family="sd3",
        network=SD3Transformer2DModel,
        config={
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        tiny={
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
        },
        tokens=333,
        pooled=True,
        size=64,
    ),
    "SANA-1.6B, 1024 px": Shape(
        family="sana",
        network=SanaTransformer2DModel,
        config={
            "in_channels": 32,
            "out_channels": 32,
            "num_attention_heads": 70,
            "attention_head_dim": 32,
            "num_layers": 20,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "caption_channels": 2304,
            "mlp_ratio": 2.5,
            "sample_size": 32,
            "patch_size": 1,
        },
        tiny={
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "sample_size": 8,
        },
        tokens=300,
        pooled=False,
        size=32,
    ),
}
