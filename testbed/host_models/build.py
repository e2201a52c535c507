"""What the tiny models of flow and of diffusion families are built alike from: config, weights, text cache, batch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from simpletuner.helpers.configuration import loader
from simpletuner.helpers.models.registry import ModelRegistry
from simpletuner.helpers.training import collate
from simpletuner.helpers.training.state_tracker import StateTracker
from torch import Tensor, nn

from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.host.training.family_model import FamilyModel
from testbed.host_models.tiny import cached_text

REQUIRED = {
    "model_type": "full",
    "output_dir": "output",
    "use_ema": True,
    "seed": 1,
    "twinflow_enabled": True,
    "twinflow_adversarial_enabled": True,
    "data_backend_config": "none.json",
    "optimizer": "optimi-adamw",
    "max_train_steps": 10,
    "num_train_epochs": 0,
    "mixed_precision": "no",
    "caption_dropout_probability": 0.0,
}


class Cache:
    """The host's text cache, filled with a family's made-up embeddings."""

    _requires_path_based_keys = False
    text_cache_ondemand = False
    id = "text"
    data_backend = SimpleNamespace(id="text")

    def __init__(self, text: Mapping[str, Any]) -> None:
        self.text = text

    def compute_prompt_embeddings_with_model(self, prompt_records: list) -> dict[str, Tensor]:
        """As the host asks it, a prompt at a time."""
        return cached_text(self.text, prompt_records[0]["prompt"])


def host_config(family: str, folder: Path, **changes: Any) -> Any:
    """A run's configuration, parsed by the host. Args: folder: of the pipeline. changes: to `REQUIRED`."""
    given = REQUIRED | {"model_family": family, "pretrained_model_name_or_path": str(folder)}
    return loader.load_config(given | changes)


def model_of(config: Any, dtype: torch.dtype, *, flow: bool) -> Any:
    """The host's model class on this configuration, checked, as the trainer makes it; no network is loaded yet."""
    config.weight_dtype, config.base_weight_dtype, config.flow_matching = dtype, dtype, flow
    model = ModelRegistry.model_families()[config.model_family](config, Accelerator(cpu=True))
    model.check_user_config()
    return model


def random_network(model: Any, arguments: Mapping[str, Any], std: float) -> nn.Module:
    """The model's network class with weights of N(0, std^2), the same in every process."""
    network, generator = model.MODEL_CLASS(**arguments), torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return network


def family_model_of(model: Any) -> FamilyModel:
    """The run's family model, its time conditioning attached and trained, as the trainer does it."""
    family_model = family_model_for(model)
    family_model.attach_time_conditioning()
    family_model.train_time_conditioning()
    model.before_accelerator_prepare()
    return family_model


def collated_batch(
    model: Any,
    text: Mapping[str, Any],
    prompts: tuple[str, ...],
    shape: tuple[int, ...],
    *,
    seed: int,
    latent: float | None,
    conditions: Callable[[int], dict[str, Any]],
    state: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """A batch as the host's collator and the model's own `prepare_batch` make it.

    Args:
        model: of `model_of`, with its network.
        text: what is cached per prompt, see `Tiny`; nothing where the network reads words.
        prompts: one a sample.
        shape: of a sample's latents.
        seed: of latents, noise and times.
        latent: the value of every latent; None for random ones.
        conditions: what else is in a batch of so many samples; entries of `batch_time_ids` are also the text's.
        state: of the trainer, beside what all families read.
    """
    cache = Cache(text)
    StateTracker.set_default_text_embed_cache(cache)

    def encoded(prompts: tuple[str, ...]) -> dict[str, Tensor]:
        records = [{"prompt": prompt, "key": prompt, "metadata": {}} for prompt in prompts]
        return collate.compute_prompt_embeddings(records, cache, model) if text else {}

    output = encoded(prompts)
    torch.manual_seed(seed)
    latents = torch.randn(len(prompts), *shape)
    others = conditions(len(prompts))
    if "batch_time_ids" in others:
        output["batch_time_ids"] = others["batch_time_ids"]
    batch = {
        "latent_batch": latents if latent is None else torch.full_like(latents, latent),
        "prompts": list(prompts),
        "text_encoder_output": output,
        "prompt_embeds": output.get("prompt_embeds"),
        "add_text_embeds": output.get("pooled_prompt_embeds"),
        "encoder_attention_mask": output.get("attention_masks"),
        "batch_time_ids": None,
        "conditioning_latents": None,
        "is_i2v_data": False,
        EMPTY_PROMPT: encoded(("",) * len(prompts)),
    } | others
    return model.prepare_batch(batch, state={"global_step": 0, "args": vars(model.config)} | dict(state))
