"""The host's epsilon and v models as its trainer makes them, with tiny random networks, and their batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from testbed.host_models.build import collated_batch, host_config, model_of, random_network
from testbed.host_models.tiny import WORDS

PROMPTS = ("a cat", "a dog on grass", "sea", "two red birds", "a house", "rain", "an old tree", "a boat")
REQUIRED = {"diff2flow_enabled": True, "twinflow_allow_diff2flow": True}
SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
POOLED = UNET | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 2,
    "projection_class_embeddings_input_dim": 6 * 2 + 8,
}


@dataclass(frozen=True)
class TinyModel:
    """A family at toy size."""

    family: str
    network: Mapping[str, Any] = field(default_factory=lambda: UNET)
    betas: Mapping[str, Any] = field(default_factory=lambda: SDXL_BETAS)
    kind: str = "epsilon"
    text: Mapping[str, Any] = field(default_factory=lambda: {"prompt_embeds": (1, WORDS, 8)})
    config: Mapping[str, Any] = field(default_factory=dict)


POOLED_TEXT = {"prompt_embeds": (1, WORDS, 8), "pooled_prompt_embeds": (8,)}
MODELS = {
    "sd1x": TinyModel("sd1x"),
    "sd1x v": TinyModel("sd1x", kind="v_prediction", config={"prediction_type": "v_prediction"}),
    "sd1x v zero snr": TinyModel(
        "sd1x", kind="v_prediction", config={"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    ),
    "sdxl": TinyModel("sdxl", POOLED, text=POOLED_TEXT),
    "kolors": TinyModel(
        "kolors",
        POOLED | {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 6},
        SDXL_BETAS | {"beta_end": 0.014, "num_train_timesteps": 1100},
        text={"prompt_embeds": (1, WORDS, 6), "pooled_prompt_embeds": (8,)},
    ),
    "pixart": TinyModel(
        "pixart",
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 8,  # epsilon and its learned variance
            "patch_size": 2,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 8,
        },
        {},
        text={"prompt_embeds": (1, WORDS, 8), "attention_masks": "row of mask"},
    ),
}


def host_model(name: str, folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The host's model class with a parsed config of its own and a tiny random network.

    Args:
        name: of `MODELS`.
        folder: to keep the noise schedule's configuration in, all that a model reads before its network is loaded.
        dtype: of the network, and of the host's batches.
        changes: to the config.
    """
    tiny = MODELS[name]
    DDPMScheduler(**tiny.betas, prediction_type=tiny.kind).save_pretrained(folder / name / "scheduler")
    config = host_config(tiny.family, folder / name, **REQUIRED | dict(tiny.config) | changes)
    model = model_of(config, dtype, flow=False)
    model.model = random_network(model, tiny.network, std=0.2).to(dtype)
    return model


def host_batch(model: Any, name: str, *, rows: int = 8, seed: int = 5, latent: float | None = None) -> dict[str, Any]:
    """A batch, see `collated_batch`.

    Args:
        model: of `host_model`.
        name: of `MODELS`.
        rows: samples, each with a prompt of its own; at most 8.
        seed: of latents, noise and times.
        latent: the value of every latent; None for random ones.
    """
    text = MODELS[name].text

    def conditions(rows: int) -> dict[str, Any]:
        return {"batch_time_ids": torch.randn(rows, 6) if "pooled_prompt_embeds" in text else None}

    return collated_batch(model, text, PROMPTS[:rows], (4, 8, 8), seed=seed, latent=latent, conditions=conditions)
