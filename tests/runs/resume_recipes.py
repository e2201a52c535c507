"""Runs of the real host that are killed, resumed, and resumed with the flag turned."""

import shutil
from pathlib import Path

from tests.runs.harness import FULL, SEED, TINY, Host, Runs
from tests.runs.observer.probes import faults
from tests.runs.observer.probes.training_step import note_each_step
from tests.runs.run import Run

PLAIN = {key: value for key, value in SEED.items() if not key.startswith("twinflow_")}
QUIET = {"validation_disable": True}
ADVERSARIAL = {"twinflow_adversarial_enabled": True}
RESUMED = {"resume_from_checkpoint": "latest"}
# Two rows a batch and two batches a step, with the host's default dropout of 0.1.
BATCHED_LORA = SEED | TINY | QUIET | ADVERSARIAL | {"train_batch_size": 2, "gradient_accumulation_steps": 2}
WHOLE = SEED | TINY | QUIET | FULL | ADVERSARIAL


def kept(run: Run, name: str) -> Path:
    """A copy of a checkpoint that a later run writes over."""
    copy = run.folder / f"kept-{name}"
    shutil.copytree(run.output / name, copy)
    return copy


def killed_lora(host: Host, runs: Runs) -> tuple[Run, Path, Run]:
    """Killed while checkpoint 6 is written; the checkpoint as it was left; resumed to step 6."""
    killed = host.train("killed_lora", BATCHED_LORA | {"max_train_steps": 8}, probe=faults.killed_in_checkpoint_6)
    unfinished = kept(killed, "checkpoint-6")
    return (
        killed,
        unfinished,
        host.train("killed_lora", BATCHED_LORA | RESUMED | {"max_train_steps": 6}, probe=note_each_step),
    )


def killed_full(host: Host, runs: Runs) -> tuple[Run, Path, Run]:
    """As `killed_lora`, a full fine-tune."""
    killed = host.train("killed_full", WHOLE | {"max_train_steps": 8}, probe=faults.killed_in_checkpoint_6)
    unfinished = kept(killed, "checkpoint-6")
    longer = WHOLE | RESUMED | {"max_train_steps": 6}
    return killed, unfinished, host.train("killed_full", longer, probe=note_each_step)


def killed_in_step(host: Host, runs: Runs) -> tuple[Run, Run]:
    """Killed in the middle of step 5, then resumed; the same steps as `killed_lora`."""
    killed = host.train("killed_in_step", BATCHED_LORA | {"max_train_steps": 8}, probe=faults.killed_in_step_5)
    return killed, host.train("killed_in_step", BATCHED_LORA | RESUMED | {"max_train_steps": 5})


def turned_lora(host: Host, runs: Runs) -> tuple[Run, Run, Run]:
    """A plain run of 2 steps, continued to 4 with TwinFlow, and to 6 without."""
    plain = PLAIN | TINY | QUIET
    return (
        host.train("turned_lora", plain | {"max_train_steps": 2}),
        host.train("turned_lora", SEED | TINY | QUIET | ADVERSARIAL | RESUMED | {"max_train_steps": 4}),
        host.train("turned_lora", plain | RESUMED | {"max_train_steps": 6}),
    )


def turned_full(host: Host, runs: Runs) -> tuple[Run, Run, Run]:
    """As `turned_lora`, a full fine-tune."""
    plain = PLAIN | TINY | QUIET | FULL
    return (
        host.train("turned_full", plain | {"max_train_steps": 2}),
        host.train("turned_full", WHOLE | RESUMED | {"max_train_steps": 4}),
        host.train("turned_full", plain | RESUMED | {"max_train_steps": 6}),
    )


RESUME_RECIPES = {
    recipe.__name__: recipe for recipe in (killed_lora, killed_full, killed_in_step, turned_lora, turned_full)
}
