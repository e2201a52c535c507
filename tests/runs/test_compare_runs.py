"""What `compare` reads back of real runs of the host: from W&B, from the host's own tracker, and over a resume."""

import json

import pytest

from simpletuner_twinflow.cli import main
from simpletuner_twinflow.comparison.read import read_runs
from simpletuner_twinflow.comparison.run import Measured
from tests.runs.terms import ALL_TERMS


@pytest.mark.host_runs("adversarial_lora")
def test_wandb_run_is_read_back_with_terms_time_configuration_and_pictures(runs):
    run = runs["adversarial_lora"].check()
    [folder] = run.folder.glob("wandb/offline-run-*")
    [by_wandb], [by_output] = read_runs([folder]), read_runs([run.output])
    for read in (by_wandb, by_output):
        assert read.mode == "TwinFlow"
        assert read.name == "adversarial_lora"
        for name in ALL_TERMS | {"train_loss"}:
            assert read.series[name].values.tolist() == [step[name] for step in run.step_logs()]
        assert 0 < read.seconds < 600
        assert read.target_step_count == 2
        assert read.config["twinflow/passes_per_row"] > 2
        assert {picture.step for picture in read.pictures} >= {2, 4}
        assert read.notes == []
    assert {one.label for one in by_wandb.pictures} <= {one.label for one in by_output.pictures}


@pytest.mark.host_runs("adversarial_full")
def test_hosts_own_tracker_is_read_back_with_the_quality(runs):
    run = runs["adversarial_full"].check()
    [read] = read_runs([run.output])
    logged = {
        name: event["values"][name]
        for event in run.of("log")
        for name in event["values"]
        if name.startswith("twinflow/quality/")
    }
    assert read.quality[Measured("ema", 1, "diversity")].steps.tolist() == [2, 4]
    assert read.config["twinflow/passes_per_row"] > 3  # a full fine-tune, which W&B was not told of
    assert logged
    for name, last in logged.items():
        head, figure = name.removeprefix("twinflow/quality/").split("/")
        who, count = head.split("_")
        assert read.quality[Measured(who, int(count), figure)].values[-1] == pytest.approx(last)
    assert read.best().keys() == {1, 2, 4}
    assert read.mode == "TwinFlow"


@pytest.mark.host_runs("seed_lora")
def test_resumed_run_is_one_curve_without_the_pause(runs):
    _, resumed = (run.check() for run in runs["seed_lora"])
    [read] = read_runs([resumed.output])
    assert read.series["train_loss"].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert any(note.startswith("Resumed 1 time") for note in read.notes)
    took = read.series["iteration_step_time_seconds"].values.sum()
    # The start of the second process alone takes longer than all steps and validations.
    assert read.seconds < took + 10


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
def test_the_command_puts_real_runs_on_one_page(runs, tmp_path, capsys):
    names = ("adversarial_lora", "adversarial_full")
    assert main(["compare", *(str(runs[name].folder) for name in names), "--json", "--output", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found["runs"]] == [*names]
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    for name in (*names, *ALL_TERMS, "not comparable across modes", "data:image/webp"):
        assert name in text
