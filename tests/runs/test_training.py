"""The whole path through the installed host: config file, parser, trainer process, checkpoint."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from simpletuner_twinflow.host.checkpoints.saving import read_time_conditioning
from simpletuner_twinflow.host.settings.examined import examined
from simpletuner_twinflow.host.training.wandb_chart import CHART_KEY
from tests.runs.terms import ALL_TERMS, DEFAULT_TERMS, assert_every_step_logs, terms


@pytest.mark.host_runs("seed_lora")
def test_documented_config_trains_with_its_default_losses(runs):
    first, _ = runs["seed_lora"]
    assert_every_step_logs(first, DEFAULT_TERMS, steps=4)


@pytest.mark.host_runs("full")
def test_full_fine_tune_trains_silently_without_a_tracker(runs):
    logs = runs["full"].check().step_logs()
    assert len(logs) == 4
    assert all(math.isfinite(values["train_loss"]) and not terms(values) for values in logs)


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_adversarial_run_logs_all_four_losses_at_every_step(name, runs):
    """With batch 1 and accumulation 6 that means: the five roles were drawn over the window."""
    assert_every_step_logs(runs[name], ALL_TERMS, steps=4)


@pytest.mark.host_runs("adversarial_lora")
def test_optimised_loss_is_the_mean_over_rows_of_twinflows_terms_alone(runs):
    """Six rows a window; rectify rides on the one-step row, and rcgm is a mean over three rows."""
    for values in runs["adversarial_lora"].step_logs():
        found = terms(values)
        total = 3 * found["twinflow/rcgm"] + 2 * found["twinflow/real_velocity"]
        total += found["twinflow/adversarial"] + found["twinflow/rectify"]
        assert values["train_loss"] == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_hosts_own_twinflow_does_not_run_beside_ours(name, runs):
    assert runs[name].check().of("host_twinflow") == []
    for values in runs[name].step_logs():
        assert not [key for key in values if key.startswith("aux_loss/") or "traj" in key.replace(CHART_KEY, "")]


@pytest.mark.host_runs("hosts_own")
def test_implementation_host_hands_the_run_back_to_the_host(runs):
    run = runs["hosts_own"].check()
    assert run.of("host_twinflow")
    for values in run.step_logs():
        assert not terms(values)
        assert "aux_loss/twinflow_rectify" in values


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_target_time_and_time_sign_are_trained(name, runs):
    output = runs[name].check().output / "checkpoint-4"
    file = "transformer/diffusion_pytorch_model.safetensors"
    found = load_file(output / file) if name == "adversarial_full" else read_time_conditioning(output)[0]
    assert found["twinflow_target_time.linear_2.weight"].abs().max() > 0
    assert found["twinflow_negative_time.weight"].abs().max() > 0


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_network_tells_target_times_and_signs_apart_once_it_has_been_trained(name, runs):
    """Both start from zero, as the pre-trained network, which knows neither."""
    first, *_, last = (step["apart"] for step in runs[name].check().of("step"))
    assert first == {"sign": 0.0, "target_time": 0.0, "repeated": 0.0}
    assert last["sign"] > 1e-5
    assert last["target_time"] > 1e-5
    assert last["repeated"] == 0.0


@pytest.mark.host_runs("seed_lora")
def test_run_resumes_from_its_checkpoint_and_goes_on(runs):
    first, resumed = runs["seed_lora"]
    assert (first.check().output / "checkpoint-4").is_dir()
    assert_every_step_logs(resumed, DEFAULT_TERMS, steps=2)
    assert [event["step"] for event in resumed.of("log") if "train_loss" in event["values"]] == [5, 6]
    assert (resumed.output / "checkpoint-6").is_dir()
    assert "  resumes " not in first.log
    [line] = [line for line in resumed.log.splitlines() if line.startswith("  resumes ")]
    assert "checkpoint-4, with other settings: ema_decay 0.99 -> 0.98" in line


@pytest.mark.host_runs("seed_lora")
def test_machine_without_an_accelerator_trains_as_it_is(runs):
    for run in runs["seed_lora"]:
        assert ("this machine has no accelerator" in run.check().log) is not torch.accelerator.is_available()


@pytest.mark.host_runs("seed_lora")
def test_resumed_run_starts_from_the_trained_conditioning(runs):
    first, resumed = runs["seed_lora"]
    name = "twinflow_target_time.linear_1.weight"  # random at the start of a run that does not resume
    before = read_time_conditioning(first.output / "checkpoint-4")[0][name]
    after = read_time_conditioning(resumed.output / "checkpoint-6")[0][name]
    assert (after - before).abs().max() < 0.01


@pytest.mark.host_runs("adversarial_full")
def test_memory_that_doctor_foretells_is_what_the_run_keeps(runs):
    run = runs["adversarial_full"].check()
    config = json.loads((run.folder / "config/config.json").read_text(encoding="utf-8"))
    foretold, kept = _sizes(examined(config)["run"]["memory"]), _sizes(run.log)
    assert foretold.keys() == {"EMA", "the base's first weights"}
    for part, count in foretold.items():
        # The time conditioning, which is large beside this tiny network, is averaged and kept too.
        assert count == pytest.approx(kept[part], rel=0.1), part


def _sizes(text: str) -> dict[str, float]:
    """The sizes in a line about memory, in bytes by part."""
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
    found = re.findall(r"(EMA|the base's first weights) ([\d.]+) (kB|MB|GB)", text)
    return {part: float(count) * units[unit] for part, count, unit in found}
