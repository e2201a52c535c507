"""A host model of a flow family as the trainer would make it, with a tiny random network, and its batches."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from simpletuner.helpers.training.state_tracker import StateTracker

from testbed.host_models.build import collated_batch, host_config, model_of, random_network
from testbed.host_models.tiny import Tiny, tokenizer_of_words
from testbed.host_models.zoo import ZOO, family_of
from testbed.hub import FLUX2
from testbed.pipelines.cosmos3 import LYCORIS
from testbed.pipelines.tokenizers import qwen_tokenizer

PROMPTS = ("a cat", "a dog on grass", "sea", "two red birds")


def host_model(name: str, folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The host's model class with a parsed config of its own, and a tiny random network that it loaded from files.

    Args:
        name: of the zoo.
        folder: of `pipeline_folder`; the networks' files go there, a folder a family.
        dtype: of the network.
        changes: to the config.
    """
    tiny = ZOO[name]
    tiny.shrink()
    flavour = {"model_flavour": tiny.flavour} if tiny.flavour else {}
    model = model_of(host_config(family_of(name), folder, **flavour | tiny.config | changes), dtype, flow=True)
    vars(model.config).update(tiny.checked)
    model.config.pretrained_model_name_or_path = str(_written(model, tiny, folder, folder / "networks" / name))
    model.load_model()
    tiny.complete(model)
    model.tiny = tiny
    return model


def host_batch(
    model: Any, prompts: tuple[str, ...] = PROMPTS, *, seed: int = 5, latent: float | None = None
) -> dict[str, Any]:
    """A batch of these prompts, see `collated_batch`. Args: model: of `host_model`."""
    tiny = model.tiny
    given = {"seed": seed, "latent": latent, "conditions": tiny.conditions, "state": tiny.state}
    return collated_batch(model, tiny.text, prompts, tiny.latents, **given)


def pipeline_folder(folder: Path) -> Path:
    """A folder with a scheduler's configuration and a tokenizer; the host looks for files there."""
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    # i1 takes its scheduler from the hub by this name, which is a folder's name too.
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / FLUX2 / "scheduler")
    tokenizer_of_words().save_pretrained(folder / "tokenizer")
    qwen_tokenizer(4096).save_pretrained(folder / "text_tokenizer")  # of Cosmos 3, as the following
    (folder / "lycoris.json").write_text(json.dumps(LYCORIS), encoding="utf-8")
    os.chdir(folder)
    StateTracker.config_path = str(folder)
    return folder


def _written(model: Any, tiny: Tiny, pipeline: Path, folder: Path) -> Path:
    """A copy of the pipeline's folder with a random network's files, which hold nothing of TwinFlow's."""
    subfolder = folder / (model.MODEL_SUBFOLDER or "")
    if tiny.write is not None:
        if not folder.exists():
            tiny.write(folder)
        return folder
    if not (subfolder / "config.json").exists():
        random_network(model, tiny.network, std=0.3).save_pretrained(subfolder)
        for part in ("scheduler", "tokenizer", "text_tokenizer"):
            shutil.copytree(pipeline / part, folder / part)
        tiny.writes(folder)
    return folder
