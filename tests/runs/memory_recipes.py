"""Runs whose memory is counted, of an SD3 with many tokens: as a LoRA and full, checkpointed or not."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image

from testbed.digits import write_digits
from testbed.trainer import datasets
from tests.runs.harness import ROOT, SEED, TINY, Host, Runs
from tests.runs.observer.probes.memory import note_memory
from tests.runs.run import Run

SIDE = 128  # pixels, 16 latents
ONE_PASS = {"train_batch_size": 4, "gradient_accumulation_steps": 1, "validation_disable": True, "max_train_steps": 3}
ON_CARD = {"ema_device": "accelerator", "resolution": SIDE, "checkpointing_steps": 3, "lora_dropout": 0.0}


class Remembered(NamedTuple):
    """The runs."""

    full: Run
    full_checkpointed: Run
    lora: Run
    lora_checkpointed: Run


def remembered(host: Host, runs: Runs) -> Remembered:
    """Runs with a probe that counts."""
    host = copy.copy(host)
    host.pipeline = host.folder / "wide_sd3"
    code = f"from {__name__} import write_sd3; write_sd3({str(ROOT / 'demo/base')!r}, {str(host.pipeline)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    config = SEED | TINY | ONE_PASS | ON_CARD
    full = config | {"model_type": "full"}
    images = datasets(large_digits(host.folder / "large_digits"))
    images[0]["resolution"] = SIDE
    watched: dict[str, Any] = {"images": images[:1], "probe": note_memory}
    return Remembered(
        host.train("remembered_full", full, **watched),
        host.train("remembered_checkpointed", full | {"gradient_checkpointing": True}, **watched),
        host.train("remembered_lora", config, **watched),
        host.train("remembered_lora_checkpointed", config | {"gradient_checkpointing": True}, **watched),
    )


def large_digits(folder: Path) -> Path:
    """Images of as many tokens as the network has places for."""
    write_digits(folder, limit=8)
    for path in folder.glob("*.png"):
        Image.open(path).resize((SIDE, SIDE)).save(path)
    return folder


def write_sd3(base: str, folder: str) -> None:
    """The tests' pipeline with a network of 256 tokens and six blocks, built as SD3.5-large is."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    settings = {key: value for key, value in pipeline.transformer.config.items() if not key.startswith("_")}
    torch.manual_seed(0)
    wider = {"patch_size": 1, "num_layers": 6, "qk_norm": "rms_norm", "sample_size": 16, "pos_embed_max_size": 32}
    pipeline.register_modules(transformer=SD3Transformer2DModel(**settings | wider))
    pipeline.save_pretrained(folder)


MEMORY_RECIPES = {"remembered": remembered}
