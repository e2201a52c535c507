"""Where measures and contact sheets are written."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from simpletuner_twinflow.comparison.quality_files import read_history
from simpletuner_twinflow.host.drawing.records import Records, end_earlier


class Tracker:
    def __init__(self, name):
        self.name, self.shown = name, []

    def log_images(self, values, step, **more):
        self.shown.append((values, step, more))


@pytest.fixture
def make(tmp_path):
    def records(step=0, trackers=()):
        config = SimpleNamespace(output_dir=str(tmp_path), report_to="simpletuner")
        accelerator = SimpleNamespace(trackers=list(trackers))
        return Records(SimpleNamespace(config=config, accelerator=accelerator, state={"global_step": step}))

    return records


def test_history_goes_on_in_time_after_a_resume(make, tmp_path):
    file = tmp_path / "twinflow/quality.jsonl"
    make().add({"ema_1/mmd": 0.5}, 8, step=2, sheet=False)
    line = json.loads(file.read_text().splitlines()[-1]) | {"seconds": 100.0}
    later = line | {"step": 4, "seconds": 200.0}
    file.write_text("".join(json.dumps(each) + "\n" for each in (line, later)) + '{"step": 6, "sec')
    assert [*read_history(tmp_path, []).measures] == [2, 4]
    file.write_text("".join(json.dumps(each) + "\n" for each in (line, later)))
    make(step=2).add({"ema_1/mmd": 0.25}, 8, step=3, sheet=False)  # went on from step 2, though step 4 had been reached
    first, last = read_history(tmp_path, []).measures.values()
    assert first["step"] == 2
    assert 100 <= last["seconds"] < 150
    assert (last["step"], last["samples"], last["values"]) == (3, 8, {"ema_1/mmd": 0.25})


def test_a_run_that_measures_nothing_leaves_no_measure_of_an_earlier_one_as_its_own(make, tmp_path):
    config = SimpleNamespace(output_dir=str(tmp_path))
    trainer = SimpleNamespace(config=config, accelerator=None, state={"global_step": 2})
    end_earlier(trainer)
    assert not (tmp_path / "twinflow").exists()
    for step in (2, 4):
        make(step - 1).add({"ema_1/mmd": 0.5}, 8, step=step, sheet=False)
    end_earlier(trainer)
    assert [*read_history(tmp_path, []).measures] == [2]


def test_a_line_that_a_killed_run_cut_off_spoils_no_other(make, tmp_path):
    file = tmp_path / "twinflow/quality.jsonl"
    make().add({"ema_1/mmd": 0.5}, 8, step=2, sheet=False)
    with file.open("a") as lines:
        lines.write('{"step": 4, "sec')
    make(step=2).add({"ema_1/mmd": 0.25}, 8, step=4, sheet=False)
    make(step=4).add({"ema_1/mmd": 0.125}, 8, step=6, sheet=False)
    assert [*read_history(tmp_path, []).measures] == [2, 4, 6]


def test_a_run_begun_anew_leaves_the_earlier_ones_measures_and_time(make, tmp_path):
    file = tmp_path / "twinflow/quality.jsonl"
    file.parent.mkdir()
    file.write_text('{"step": 100, "seconds": 900.0, "samples": 8, "values": {"ema_1/mmd_in_errors": 1.0}}\n')
    make().add({"ema_1/mmd_in_errors": 50.0}, 8, step=200, sheet=False)
    make(step=200).add({"ema_1/mmd_in_errors": 40.0}, 8, step=400, sheet=False)
    measures = read_history(tmp_path, []).measures
    assert [*measures] == [200, 400]
    assert measures[400]["seconds"] < 100


def test_sheet_is_a_file_and_shown_on_trackers_that_take_pictures(make, tmp_path):
    wandb, board, other = map(Tracker, ("wandb", "tensorboard", "simpletuner"))
    path = make(trackers=(wandb, board, other)).add_sheet(Image.new("RGB", (5, 4), "red"), step=7)
    with Image.open(path) as sheet:
        assert sheet.size == (5, 4)
    [(values, step, more)] = wandb.shown
    assert (step, more, values["twinflow/contact_sheet"].shape) == (7, {}, (1, 4, 5, 3))
    assert board.shown[0][2] == {"dataformats": "NHWC"}
    assert other.shown == []
    assert read_history(tmp_path, []).has_sheet(7) is False
    records = make()
    records.add({"ema_1/mmd": 0.5}, 8, step=7, sheet=True)
    assert read_history(tmp_path, []).has_sheet(7)
    records.add({"ema_1/mmd": 0.5}, 8, step=7, sheet=False)
    assert not read_history(tmp_path, []).has_sheet(7)  # the file is an earlier run's
    record = json.loads((tmp_path / "validation_media.jsonl").read_text())
    assert (record["path"], record["type"]) == ("twinflow/contact_sheet-7.png", "image")
