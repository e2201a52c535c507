"""W&B's own files, written by W&B offline: whole, resumed, cut short and damaged."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simpletuner_twinflow.comparison import wandb_run
from simpletuner_twinflow.comparison.find import find_runs
from simpletuner_twinflow.comparison.read import read_run
from simpletuner_twinflow.comparison.run import Measured, Run
from simpletuner_twinflow.comparison.series import Log
from simpletuner_twinflow.errors import TwinFlowError

WRITE = """
import sys, math
import numpy as np, wandb
first, last = map(int, sys.argv[1:])
settings = wandb.Settings(disable_git=True, x_disable_stats=True, console="off")
run = wandb.init(mode="offline", id="0123456789abcdef", resume="allow", settings=settings)
run.config.update({"twinflow_enabled": True, "prompt": "日本 <b>", "seed": first}, allow_val_change=True)
for step in range(first, last + 1):
    values = {"train_loss": math.nan if step == 2 else float(first), "iteration_step_time_seconds": 0.25}
    run.log(values, step=step)
    if step % 2 == 0:
        picture = wandb.Image(np.full((4, 4, 3), 10 * step, np.uint8))
        run.log({"twinflow/quality/ema_1/mmd_in_errors": 10.0 / step, "日本 - 64x64": picture}, step=step)
run.finish()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of 6 steps, resumed after step 4."""
    folder = tmp_path_factory.mktemp("wandb")
    for first, last in ((1, 6), (5, 8)):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        environment |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        command = [sys.executable, "-c", WRITE, str(first), str(last)]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def read(folder: Path) -> Run:
    [found] = find_runs([folder])
    return read_run(found, "x")


def test_a_resumed_run_is_one_curve_of_the_later_steps(folder):
    run = read(folder)
    loss, quality = run.series["train_loss"], run.quality[Measured("ema", 1, "mmd_in_errors")]
    assert loss.steps.tolist() == [*range(1, 9)]
    assert [value for value in loss.values.tolist() if not math.isnan(value)] == [1, 1, 1, 5, 5, 5, 5]
    assert quality.steps.tolist() == [2, 4, 6, 8]
    assert (loss.seconds[1:] >= loss.seconds[:-1]).all()
    assert loss.seconds[-1] < 60
    assert run.config["prompt"] == "日本 <b>"
    assert run.config["seed"] == 5
    assert {(one.label, one.step) for one in run.pictures} >= {("日本 - 64x64", step) for step in (2, 4, 6, 8)}
    assert any("Steps 5 to 6 were lost" in note for note in run.notes)
    assert not any("killed" in note for note in run.notes)


def test_a_file_cut_short_is_read_as_far_as_it_goes_and_that_is_said(folder, tmp_path):
    [first, _] = sorted(folder.glob("wandb/offline-run-*"))
    file = next(first.glob("*.wandb"))
    copy = tmp_path / first.name
    copy.mkdir()
    whole = file.read_bytes()
    cut = whole.rindex(b"train_loss")  # in the last record that has one
    (copy / file.name).write_bytes(whole[:cut])
    run = read(copy)
    assert run.series["train_loss"].steps.tolist()[:3] == [1, 2, 3]
    assert any("killed" in note for note in run.notes)


def test_a_file_of_nothing_and_one_of_rubbish_are_said_to_be_unreadable(tmp_path):
    for content in (b"", b"rubbish" * 100):
        folder = tmp_path / "offline-run-20260102_030405-abc"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "run-abc.wandb").write_bytes(content)
        run = read(folder)
        assert run.last_step is None
        assert any("could not be read" in note for note in run.notes)


def test_pictures_outside_of_the_runs_folder_are_not_taken(tmp_path):
    (tmp_path / "secret.png").touch()
    (tmp_path / "files").mkdir()
    item = {"a._type": "image-file", "a.path": "../secret.png"}
    assert [*wandb_run._pictures(item, 1, tmp_path / "files")] == []


def test_without_wandb_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_run, "find_spec", lambda name: None)
    with pytest.raises(TwinFlowError, match="pip install wandb"):
        wandb_run.read_wandb(tmp_path, Log())
