"""Runs whose weights FSDP2 shards over two processes, and the same runs by DDP."""

import shutil
from pathlib import Path
from typing import Any

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes import sharded
from tests.runs.resume_recipes import RESUMED
from tests.runs.run import Run

# optimi's optimizers are not for FSDP2, and on CPUs the host can draw with one rank only.
COMMON = {"twinflow_adversarial_enabled": True, "optimizer": "torch-adamw", "validation_disable": True}
FSDP2 = {"fsdp_enable": True, "fsdp_version": 2}


def encoded(host: Host, runs: Runs) -> Run:
    """A step, for the sake of the latents that it encodes."""
    return host.train("encoded", SEED | TINY | COMMON | {"max_train_steps": 1, "checkpointing_steps": 1})


def by_ddp_lora(host: Host, runs: Runs) -> list[Run]:
    """A LoRA by DDP."""
    return _start(host, runs, "by_ddp_lora", SEED | TINY | COMMON)


def sharded_lora(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """The same LoRA by FSDP2; its last checkpoint; the last two steps again, from the checkpoint before."""
    return _resumed(host, runs, "sharded_lora", SEED | TINY | COMMON | FSDP2)


def by_ddp_full(host: Host, runs: Runs) -> list[Run]:
    """A full fine-tune by DDP; no checkpoint in between, whose saving would move the random streams."""
    return _start(host, runs, "by_ddp_full", SEED | TINY | FULL | COMMON | {"checkpointing_steps": 4})


def sharded_full(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """As `sharded_lora`, a full fine-tune."""
    return _resumed(host, runs, "sharded_full", SEED | TINY | FULL | COMMON | FSDP2)


def _resumed(host: Host, runs: Runs, name: str, config: dict[str, Any]) -> tuple[list[Run], Path, list[Run]]:
    first = _start(host, runs, name, config)
    kept = first[0].folder / "kept"
    shutil.copytree(first[0].output, kept)
    shutil.rmtree(first[0].output / "checkpoint-4")
    return first, kept, host.train_on_ranks(name, config | RESUMED, probe=sharded.note_weights)


def _start(host: Host, runs: Runs, name: str, config: dict[str, Any]) -> list[Run]:
    """A run of two ranks on latents that are encoded already, since encoding moves random streams."""
    shutil.copytree(runs["encoded"].check().folder / "cache", host.folder / name / "cache")
    return host.train_on_ranks(name, config, probe=sharded.note_weights)


SHARDED_RECIPES = {
    recipe.__name__: recipe for recipe in (encoded, by_ddp_lora, sharded_lora, by_ddp_full, sharded_full)
}
