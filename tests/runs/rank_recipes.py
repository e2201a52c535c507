"""Runs of the real host in two processes."""

import shutil
from pathlib import Path

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes import faults, ranks
from tests.runs.resume_recipes import RESUMED, kept
from tests.runs.run import Run

ADVERSARIAL = {"twinflow_adversarial_enabled": True}
SIX_STEPS = {"max_train_steps": 6, "checkpointing_steps": 3, "validation_steps": 6}


def two_ranks_lora(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """Six steps as torchrun starts them, with a validation; the last checkpoint; the last three steps again."""
    config = SEED | TINY | ADVERSARIAL | SIX_STEPS
    first = host.train_on_ranks("two_ranks_lora", config, command="torchrun", probe=ranks.note_weights)
    reference = kept(first[0], "checkpoint-6")
    drop(first[0], "checkpoint-6")
    return first, reference, host.train_on_ranks("two_ranks_lora", config | RESUMED, probe=ranks.note_weights)


def two_ranks_full(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """As `two_ranks_lora`, a full fine-tune, which in the plain host hangs at its first checkpoint."""
    config = SEED | TINY | FULL | ADVERSARIAL | SIX_STEPS | {"train_batch_size": 3}
    config |= {"twinflow_quality_samples": 8, "twinflow_quality_interval": 3}
    first = host.train_on_ranks("two_ranks_full", config, probe=ranks.note_weights)
    reference = kept(first[0], "checkpoint-6")
    drop(first[0], "checkpoint-6")
    return first, reference, host.train_on_ranks("two_ranks_full", config | RESUMED, probe=ranks.note_weights)


def rank_raises(host: Host, runs: Runs) -> list[Run]:
    """One of two ranks raises in the second step."""
    config = SEED | TINY | ADVERSARIAL | {"validation_disable": True}
    return host.train_on_ranks("rank_raises", config, probe=ranks.raise_on_rank_1)


def damaged_on_ranks(host: Host, runs: Runs) -> list[Run]:
    """The newest checkpoint damaged and to be deleted; one rank comes to look at it late."""
    first, _, _ = runs["two_ranks_lora"]
    folder = host.folder / "damaged_on_ranks"
    shutil.copytree(first[0].folder, folder)
    damaged = folder / "output/checkpoint-6"
    damaged.joinpath("optimizer.bin").write_bytes(b"")
    config = SEED | TINY | ADVERSARIAL | SIX_STEPS | RESUMED | {"max_train_steps": 4, "validation_disable": True}
    config |= {"delete_invalid_checkpoints": True}
    return host.train_on_ranks(folder.name, config, probe=faults.rank_0_is_late)


def rank_gradients(host: Host, runs: Runs) -> list[Run]:
    """Two steps of a full fine-tune with five rows a rank, so that the ranks' rows have other roles."""
    config = SEED | TINY | FULL | ADVERSARIAL | {"train_batch_size": 5, "validation_disable": True}
    return host.train_on_ranks("rank_gradients", config | {"max_train_steps": 2}, probe=ranks.note_gradients)


def drop(run: Run, checkpoint: str) -> None:
    """Have the next run resume from the checkpoint before this one."""
    shutil.rmtree(run.output / checkpoint)


RANK_RECIPES = {
    recipe.__name__: recipe
    for recipe in (two_ranks_lora, two_ranks_full, rank_raises, damaged_on_ranks, rank_gradients)
}
