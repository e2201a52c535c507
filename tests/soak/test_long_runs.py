"""A long run holds no more memory at its end than at its start; a run outlives its tracker."""

import os

import pytest

from tests.runs.harness import SEED, TINY
from tests.runs.observer.probes import soak
from tests.runs.resume_recipes import ADVERSARIAL, QUIET, RESUMED

pytestmark = pytest.mark.soak
STEPS = int(os.environ.get("SOAK_STEPS", "1000"))


def test_memory_of_a_long_run_does_not_grow(host, seen):
    config = SEED | TINY | ADVERSARIAL | QUIET | {"train_batch_size": 2, "gradient_accumulation_steps": 1}
    config |= {"max_train_steps": STEPS, "checkpointing_steps": STEPS, "twinflow_trajectory_interval": 100}
    run = host.train("long", config, probe=soak.note_memory, timeout=3600).check()
    held = {event["step"]: event["held"] / 2**20 for event in run.of("memory")}
    first = held[min(step for step in held if step >= STEPS // 4)]
    assert held[STEPS] - first < 0.02 * first, held
    seen(f"{STEPS} steps", f"{first:.0f} MiB after a quarter, {held[STEPS]:.0f} MiB at the end")


def test_run_outlives_the_process_of_wandb(host, seen):
    config = SEED | TINY | QUIET | {"report_to": "wandb", "tracker_project_name": "soak", "max_train_steps": 6}
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    run = host.train("wandb-killed", config, probe=soak.wandb_killed_in_step_3, environment=offline)
    assert run.of("wandb"), run.log[-2000:]
    if run.code == 0:
        assert (run.output / "pytorch_lora_weights.safetensors").exists()
        seen("W&B's process killed in step 3 of 6", "the run goes on to its end")
        return
    host.train("wandb-killed", config | RESUMED, environment=offline).check()
    seen("W&B's process killed in step 3 of 6", "the run ends; resumed it goes on to its end")
