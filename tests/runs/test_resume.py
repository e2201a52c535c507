"""What is on disk when a run dies is enough to go on from, to the bit; and the flag may be turned between runs."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simpletuner_twinflow.host.checkpoints.files import STATE_FILE, TIME_CONDITIONING_FILE
from tests.runs.run import Run


def losses(run: Run) -> dict[int, dict[str, float]]:
    """What each step logged of the training itself."""
    wanted = ("train_loss", "twinflow/", "grad_absmax", "ema_decay")
    return {
        event["step"]: {key: value for key, value in event["values"].items() if key.startswith(wanted)}
        for event in run.of("log")
        if "train_loss" in event["values"]
    }


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, by a name for each; numbers are tensors too."""
    content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=False)
    found: dict[str, torch.Tensor] = {}

    def walk(name: str, value) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}/{key}", item)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                walk(f"{name}/{number}", item)
        elif isinstance(value, int | float):
            found[name] = torch.tensor(float(value), dtype=torch.float64)
        elif isinstance(value, torch.Tensor):
            found[name] = value

    walk("", content)
    return found


def was_killed(run: Run) -> bool:
    return run.code == -signal.SIGKILL


FILES = {
    "killed_lora": [
        "pytorch_lora_weights.safetensors",
        "ema/pytorch_lora_weights.safetensors",
        str(TIME_CONDITIONING_FILE),
    ],
    "killed_full": [
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer_ema/diffusion_pytorch_model.safetensors",
    ],
}
EVERYWHERE = ["optimizer.bin", "random_states_0.pkl", "transformer_ema/ema_model.pt"]


@pytest.mark.host_runs("killed_lora", "killed_full")
@pytest.mark.parametrize("name", ["killed_lora", "killed_full"])
def test_unfinished_checkpoint_is_passed_over_and_said_so(name, runs):
    killed, unfinished, resumed = runs[name]
    assert was_killed(killed)
    assert not (unfinished / ".guard").exists()
    assert "checkpoint-6 was not finished when its run ended; resuming from checkpoint-4" in resumed.check().log
    assert [*losses(resumed)] == [5, 6]


@pytest.mark.host_runs("killed_lora", "killed_full")
@pytest.mark.parametrize("name", ["killed_lora", "killed_full"])
def test_resumed_steps_log_what_the_uninterrupted_ones_did(name, runs):
    killed, _, resumed = runs[name]
    assert [*losses(killed)] == [1, 2, 3, 4, 5]  # the host logs a step after its checkpoint
    assert losses(resumed.check())[5] == losses(killed)[5]
    assert len(losses(killed)[5]) >= 6


@pytest.mark.host_runs("killed_lora", "killed_full")
@pytest.mark.parametrize(("name", "file"), [(name, file) for name in FILES for file in FILES[name] + EVERYWHERE])
def test_resumed_run_writes_the_checkpoint_of_the_uninterrupted_one_to_the_bit(name, file, runs):
    _, unfinished, resumed = runs[name]
    before, after = tensors(unfinished / file), tensors(resumed.check().output / "checkpoint-6" / file)
    assert before.keys() == after.keys()
    assert before
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.mark.host_runs("killed_lora", "killed_in_step")
def test_run_killed_in_a_step_repeats_that_step(runs):
    reference, _, _ = runs["killed_lora"]
    killed, resumed = runs["killed_in_step"]
    assert was_killed(killed)
    assert [*losses(killed)] == [1, 2, 3, 4]
    assert losses(resumed.check()) == {5: losses(reference)[5]}


@pytest.mark.host_runs("killed_lora")
def test_adapter_trains_without_dropout_as_under_the_hosts_distillers_and_the_log_says_so_once(runs):
    """Its default is 0.1. Passes on part of a batch are then made on that part alone."""
    _, _, resumed = runs["killed_lora"]
    steps = resumed.check().of("step")
    assert len(steps) == 4
    assert {call["rows"] for step in steps for call in step["calls"]} == {1, 2}
    assert all(step["loss_is_repeatable"] for step in steps)
    assert not any(step["stream_moved"] for step in steps)
    assert resumed.log.count("lora_dropout is 0.1 and becomes 0") == 1


@pytest.mark.host_runs("turned_lora", "turned_full")
@pytest.mark.parametrize("name", ["turned_lora", "turned_full"])
def test_plain_run_goes_on_with_twinflow_and_then_without(name, runs):
    plain, with_twinflow, without = (run.check() for run in runs[name])
    assert not (plain.output / "checkpoint-2" / STATE_FILE).exists()
    assert [*losses(with_twinflow)] == [3, 4]
    assert all("twinflow/adversarial" in values for values in losses(with_twinflow).values())
    assert "checkpoint-2 was trained without TwinFlow: its time conditioning starts from zero" in with_twinflow.log
    assert [*losses(without)] == [5, 6]
    assert not [key for values in losses(without).values() for key in values if key.startswith("twinflow/")]
    assert "checkpoint-4 was trained with TwinFlow; this run goes on without it" in without.log


WEIGHTS = {"turned_lora": FILES["killed_lora"][0], "turned_full": FILES["killed_full"][0]}


@pytest.mark.host_runs("turned_lora", "turned_full")
@pytest.mark.parametrize("name", ["turned_lora", "turned_full"])
def test_turned_run_goes_on_from_the_weights_optimizer_and_averages_it_finds(name, runs):
    """A step of Adam moves a weight by no more than the learning rate; a forgotten state would start elsewhere."""
    runs_of_three = [run.check() for run in runs[name]]
    for run, start, end in zip(
        runs_of_three[1:], ("checkpoint-2", "checkpoint-4"), ("checkpoint-4", "checkpoint-6"), strict=True
    ):
        before, after = (tensors(run.output / folder / WEIGHTS[name]) for folder in (start, end))
        shared = before.keys() & after.keys()
        assert shared >= {key for key in before if not key.startswith("/twinflow")}
        assert max((before[key].float() - after[key].float()).abs().max() for key in shared) < 2.5e-3
        state = tensors(run.output / end / "optimizer.bin")
        steps = {int(value) for key, value in state.items() if key.endswith("/step")}
        assert max(steps) == int(end.removeprefix("checkpoint-"))
        assert steps <= {int(end.removeprefix("checkpoint-")), 2}


@pytest.mark.host_runs("turned_full")
def test_network_of_a_run_without_twinflow_has_nothing_left_of_it(runs):

    _, _, without = runs["turned_full"]
    folder = without.check().output / "checkpoint-6/transformer"
    assert not [
        key for key in load_file(folder / "diffusion_pytorch_model.safetensors") if "twinflow" in key or "sign" in key
    ]
    assert not json.loads((folder / "config.json").read_text(encoding="utf-8"))["enable_time_sign_embed"]
