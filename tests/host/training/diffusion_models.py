"""The host's epsilon and v models as its trainer makes them, with tiny random networks, and their batches."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from simpletuner.helpers.configuration import loader
from simpletuner.helpers.models.registry import ModelRegistry
from simpletuner.helpers.training import collate
from simpletuner.helpers.training.state_tracker import StateTracker
from torch import Tensor

from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.models import family_model_for

PROMPTS = ("a cat", "a dog on grass", "sea", "two red birds", "a house", "rain", "an old tree", "a boat")
REQUIRED = {
    "model_type": "full",
    "output_dir": "output",
    "use_ema": True,
    "seed": 1,
    "diff2flow_enabled": True,
    "twinflow_enabled": True,
    "twinflow_allow_diff2flow": True,
    "twinflow_adversarial_enabled": True,
    "data_backend_config": "none.json",
    "optimizer": "optimi-adamw",
    "max_train_steps": 10,
    "num_train_epochs": 0,
    "mixed_precision": "no",
    "caption_dropout_probability": 0.0,
}
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
WORDS = 5


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
        text={"prompt_embeds": (1, WORDS, 8), "attention_masks": "mask"},
    ),
}


class Cache:
    """The host's text cache, filled with made-up embeddings."""

    _requires_path_based_keys = False
    text_cache_ondemand = False
    id = "text"
    data_backend = SimpleNamespace(id="text")

    def __init__(self, tiny: TinyModel) -> None:
        self.tiny = tiny

    def compute_prompt_embeddings_with_model(self, prompt_records: list) -> dict[str, Tensor]:
        prompt = prompt_records[0]["prompt"]
        stream = torch.Generator().manual_seed(sum(map(ord, prompt)) + 17)
        mask = (torch.arange(WORDS) < max(1, len(prompt.split()))).long()
        return {
            name: mask if shape == "mask" else torch.randn(shape, generator=stream)
            for name, shape in self.tiny.text.items()
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
    given = REQUIRED | {"model_family": tiny.family, "pretrained_model_name_or_path": str(folder / name)}
    config = loader.load_config(given | tiny.config | changes)
    config.weight_dtype, config.base_weight_dtype, config.flow_matching = dtype, dtype, False  # as the trainer does
    model = ModelRegistry.model_families()[tiny.family](config, Accelerator(cpu=True))
    model.check_user_config()
    network = model.MODEL_CLASS(**tiny.network)
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    model.model = network.to(dtype)
    return model


def adapter_of(model: Any) -> FamilyModel:
    """The run's adapter, its conditioning attached and trained, as the trainer does it."""
    adapter = family_model_for(model)
    adapter.attach_time_conditioning()
    adapter.train_time_conditioning()
    return adapter


def host_batch(model: Any, name: str, *, rows: int = 8, seed: int = 5, latent: float | None = None) -> dict:
    """A batch as the host's collator and the model's own `prepare_batch` make it.

    Args:
        model: of `host_model`.
        name: of `MODELS`.
        rows: samples, each with a prompt of its own; at most 8.
        seed: of latents, noise and times.
        latent: the value of every latent; None for random ones.
    """
    cache = Cache(MODELS[name])
    StateTracker.set_default_text_embed_cache(cache)

    def encoded(prompts: tuple[str, ...]) -> dict[str, Tensor]:
        records = [{"prompt": prompt, "key": prompt, "metadata": {}} for prompt in prompts]
        return collate.compute_prompt_embeddings(records, cache, model)

    text = encoded(PROMPTS[:rows])
    torch.manual_seed(seed)
    latents = torch.randn(rows, 4, 8, 8)
    text["batch_time_ids"] = torch.randn(rows, 6) if "pooled_prompt_embeds" in text else None
    batch = {
        "latent_batch": latents if latent is None else torch.full_like(latents, latent),
        "prompts": list(PROMPTS[:rows]),
        "text_encoder_output": text,
        "prompt_embeds": text["prompt_embeds"],
        "add_text_embeds": text.get("pooled_prompt_embeds"),
        "encoder_attention_mask": text.get("attention_masks"),
        "batch_time_ids": text["batch_time_ids"],
        "conditioning_latents": None,
        "is_i2v_data": False,
        EMPTY_PROMPT: encoded(("",) * rows),
    }
    return model.prepare_batch(batch, state={"global_step": 0, "args": vars(model.config)})


def install_oracle(model: Any, answer: Callable[[Tensor, Tensor], Tensor]) -> list[dict[str, Any]]:
    """Let the network answer `answer(sample, abar)`, and write down what it is given.

    The host's network runs too, so its input is what it takes and the output is of its shape. abar is that of the
    host's own schedule at the network's timestep, between whole ones by other means than those under test.
    """
    abar, real, calls = model.noise_schedule.alphas_cumprod.double(), model.model.forward, []

    def forward(sample: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        (output,) = real(sample, *args, **kwargs)
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[0]
        calls.append({"sample": sample, "timestep": timestep, "args": args, "kwargs": kwargs})
        exact = answer(sample.double(), _between(abar, timestep.double())).to(output.dtype)
        # Beside epsilon the learned variance, if any, which nobody may take for a part of it.
        return (torch.cat([exact, torch.full_like(exact, 1e3)], dim=1) if output.shape[1] == 8 else exact,)

    model.model.forward = forward
    return calls


def _between(abar: Tensor, time: Tensor) -> Tensor:
    """abar between whole times: cubic through four of them in log SNR, where it is smooth; (B,)."""
    last = len(abar) - 1
    first = (time.floor().long() - 1).clamp(0, last - 3)
    places = torch.stack([first + offset for offset in range(4)])
    log_snr = torch.log(abar / (1 - abar)).clamp(min=-40)[places]
    total = torch.zeros_like(time)
    for here in range(4):
        others = [other for other in range(4) if other != here]
        weight = math.prod((time - first - other) / (here - other) for other in others)
        total = total + weight * log_snr[here]
    return torch.where(time == time.round(), abar[time.round().long().clamp(0, last)], torch.sigmoid(total))
