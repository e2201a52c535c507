"""What the trackers of a run hold."""

import json
import math
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.comparison.quality_files import read_history
from simpletuner_twinflow.host.training.wandb_chart import COLUMNS, TITLE
from simpletuner_twinflow.method.roles import Role
from tests.runs.harness import SEED
from tests.runs.run import Run
from tests.runs.terms import ALL_TERMS


def wandb_records(run: Run) -> list[dict]:
    """The records of the run's offline W&B file, by wandb's own reader."""
    [folder] = run.folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.host_runs("adversarial_lora")
def test_wandb_file_holds_every_term_at_every_step(runs):
    items = [
        record["history"]["item"]
        for record in wandb_records(runs["adversarial_lora"].check())
        if record["type"] == "history"
    ]
    for step in range(1, 5):
        merged = {key: value for item in items if item["_step"] == step for key, value in item.items()}
        assert merged.keys() >= ALL_TERMS
        assert all(math.isfinite(merged[name]) for name in ALL_TERMS)


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["adversarial_lora", "adversarial_full"])
def test_progress_line_names_every_term_with_the_value_of_the_last_step(name, runs):
    run = runs[name].check()
    shown = dict(re.findall(r"(\w+)=([-+.e\d]+)", run.log.split("4/4 [")[-1].split("\n")[0]))
    last = run.step_logs()[-1]
    for term in ALL_TERMS:
        assert float(shown[term.removeprefix("twinflow/")]) == pytest.approx(last[term], rel=0.01)


@pytest.mark.host_runs("adversarial_lora")
def test_wandb_file_holds_the_trajectory_chart(runs):
    run = runs["adversarial_lora"].check()
    text = json.dumps(wandb_records(run))
    assert TITLE in text
    assert "experimental/theory unverified" in TITLE
    [table] = run.folder.glob("wandb/offline-run-*/files/media/table/twinflow/trajectory_table*.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"] == list(COLUMNS)
    assert len(content["data"]) == 6  # the rows of the first step's window: batch 1, accumulation 6
    assert {row[COLUMNS.index("role")] for row in content["data"]} == {*Role}
    for _, role, sigma, target_time, sign in content["data"]:
        assert 0 <= target_time <= sigma <= 1
        assert sign == (-1 if role == "twin" else 1)


@pytest.mark.host_runs("adversarial_lora")
def test_contact_sheets_and_distances_are_beside_the_checkpoints_and_on_wandb(runs):
    run = runs["adversarial_lora"].check()
    items = [record["history"]["item"] for record in wandb_records(run) if record["type"] == "history"]
    merged = {key: value for item in items if item["_step"] == 4 for key, value in item.items()}
    assert {"twinflow/fields/student_to_teacher", "twinflow/fields/empty_prompt_drift"} <= merged.keys()
    assert {"twinflow/clamped", "twinflow/sign_separation"} <= merged.keys()
    assert 0 <= merged["twinflow/clamped"] <= 1
    shown = {key for key in merged if key.startswith("twinflow/contact_sheet")}
    assert shown
    assert list(run.folder.glob("wandb/offline-run-*/files/media/images/twinflow/contact_sheet_*.png"))
    for step in (2, 4):
        with Image.open(run.output / f"twinflow/contact_sheet-{step}.png") as sheet:
            assert sheet.width > 6 * 32  # of 1, 2, 4 and 8 steps, the base and the data
    history = read_history(run.output, []).measures
    assert [*history] == [2, 4]
    assert 0 < history[2]["seconds"] < history[4]["seconds"]


@pytest.mark.host_runs("adversarial_full", "shapes", "two_ranks_full")
@pytest.mark.parametrize(
    ("name", "steps", "who"),
    [
        ("adversarial_full", [2, 4], {"base_20", "base_2", "ema_1", "ema_2", "ema_4", "student_1"}),
        ("shapes", [3, 6], {"ema_1", "ema_2", "ema_4", "student_4"}),  # latents of several sizes
        ("two_ranks_full", [3, 6], {"base_20", "ema_1", "student_4"}),  # half of the samples on each rank
    ],
)
def test_quality_is_logged_where_it_is_due_and_once(name, steps, who, runs):
    found = runs[name]
    first = (found[0][0] if isinstance(found, tuple) else found).check()
    for step in steps:
        measured = [
            event["values"]
            for event in first.of("log")
            if event.get("step") == step and any(key.startswith("twinflow/quality/") for key in event["values"])
        ]
        [values] = measured
        assert all(math.isfinite(value) for value in values.values())
        assert {key.split("/")[2] for key in values} >= who
    assert len(re.findall(r"TwinFlow quality at step", first.log)) == len(steps)


@pytest.mark.host_runs("adversarial_lora")
def test_recorded_configs_show_the_keys_as_the_user_set_them(runs):
    run = runs["adversarial_lora"].check()
    recorded = {}
    for record in wandb_records(run):
        if record["type"] == "config":
            recorded |= record["config"].get("update", record["config"])
    published = json.loads((run.output / "simpletuner_config.json").read_text(encoding="utf-8"))
    assert recorded["twinflow/plugin_version"] == version("simpletuner-twinflow")
    # Of 6 rows 3 are rolled out in 2 passes and every second guided, 2 near and every fourth; 1 is a twin, 1 rectified.
    assert recorded["twinflow/passes_per_row"] == round(2 + (3 * 2 + (3 / 2 + 2 / 4) * 2 + 1 + 2) / 6, 3)
    beside = json.loads((run.output / "twinflow/run.json").read_text(encoding="utf-8"))
    assert len(beside) > 3
    assert {key: recorded[key] for key in beside} == beside
    wanted = {key: value for key, value in SEED.items() if key.startswith("twinflow_")}
    wanted |= {"twinflow_adversarial_enabled": True, "twinflow_implementation": "paper"}
    for found in (recorded, published):
        assert {key: found.get(key) for key in wanted} == wanted
        assert found.keys() >= set(TwinFlowOptions.keys())
