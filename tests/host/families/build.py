"""A host model of a family as the trainer would make it, with a tiny random network, and its batches."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from simpletuner.helpers.configuration import loader
from simpletuner.helpers.models.registry import ModelRegistry
from simpletuner.helpers.training import collate
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.models import family_model_for
from tests.host.families.zoo import ZOO, Tiny, cached_text, family_of, tokenizer_of_words

PROMPTS = ("a cat", "a dog on grass", "sea", "two red birds")
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

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny

    def compute_prompt_embeddings_with_model(self, prompt_records: list) -> dict:
        return cached_text(self.tiny, prompt_records[0]["prompt"])


def host_config(family: str, folder: Path, **changes: Any) -> Any:
    """A run's configuration, parsed by the host; the pipeline's folder holds no more than a scheduler."""
    given = REQUIRED | {"model_family": family, "pretrained_model_name_or_path": str(folder)}
    return loader.load_config(given | changes)


def host_model(name: str, folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The host's model class with a parsed config of its own, and a tiny random network that it loaded from files.

    Args:
        name: of the zoo.
        folder: of `pipeline_folder`; the networks' files go there, a folder a family.
        dtype: of the network.
        changes: to the config.
    """
    tiny, family = ZOO[name], family_of(name)
    flavour = {"model_flavour": tiny.flavour} if tiny.flavour else {}
    config = host_config(family, folder, **flavour | tiny.config | changes)
    config.weight_dtype, config.base_weight_dtype, config.flow_matching = dtype, dtype, True  # as the trainer does
    model = ModelRegistry.model_families()[family](config, Accelerator(cpu=True))
    model.check_user_config()
    vars(config).update(tiny.checked)
    config.pretrained_model_name_or_path = str(written(model, tiny, folder, folder / "networks" / name))
    model.load_model()
    model.tiny = tiny
    return model


def written(model: Any, tiny: Tiny, pipeline: Path, folder: Path) -> Path:
    """A copy of the pipeline's folder with a random network's files, which hold nothing of TwinFlow's."""
    subfolder = folder / (model.MODEL_SUBFOLDER or "")
    if not (subfolder / "config.json").exists():
        network = model.MODEL_CLASS(**tiny.network)
        generator = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        network.save_pretrained(subfolder)
        for part in ("scheduler", "tokenizer"):
            shutil.copytree(pipeline / part, folder / part)
    return folder


def adapter_of(model: Any) -> FamilyModel:
    """The run's adapter, its conditioning attached and trained, as the trainer does it."""
    adapter = family_model_for(model)
    adapter.attach_time_conditioning()
    adapter.train_time_conditioning()
    return adapter


def host_batch(model: Any, prompts: tuple[str, ...] = PROMPTS, *, seed: int = 5, latent: float | None = None) -> dict:
    """A batch as the host's collator and the model's own `prepare_batch` make it of these prompts.

    Args:
        model: of `host_model`.
        prompts: one a sample.
        seed: of latents, noise and times.
        latent: the value of every latent; None for random ones.
    """
    tiny = model.tiny
    cache = Cache(tiny)
    StateTracker.set_default_text_embed_cache(cache)
    records = [{"prompt": prompt, "key": prompt, "metadata": {}} for prompt in prompts]
    empty = [{"prompt": "", "key": "", "metadata": {}} for _ in prompts]
    text = collate.compute_prompt_embeddings(records, cache, model) if tiny.text else {}
    torch.manual_seed(seed)
    latents = torch.randn(len(prompts), *tiny.latents)
    batch = {
        "latent_batch": latents if latent is None else torch.full_like(latents, latent),
        "prompts": list(prompts),
        "text_encoder_output": text,
        "prompt_embeds": text.get("prompt_embeds"),
        "add_text_embeds": text.get("pooled_prompt_embeds"),
        "encoder_attention_mask": text.get("attention_masks"),
        "batch_time_ids": None,
        "conditioning_latents": None,
        "is_i2v_data": False,
        EMPTY_PROMPT: collate.compute_prompt_embeddings(empty, cache, model) if tiny.text else {},
    } | tiny.conditions(len(prompts))
    return model.prepare_batch(batch, state={"global_step": 0, "args": vars(model.config)})


def pipeline_folder(folder: Path) -> Path:
    """A folder with a scheduler's configuration and a tokenizer; the host looks for files there."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    tokenizer_of_words().save_pretrained(folder / "tokenizer")
    os.chdir(folder)
    StateTracker.config_path = str(folder)
    return folder
