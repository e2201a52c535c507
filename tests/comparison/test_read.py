"""A run out of an output folder."""

import json

from simpletuner_twinflow.comparison.read import add_files, read_runs
from simpletuner_twinflow.comparison.run import Measured, Picture
from tests.comparison.folders import TWINFLOW, first, quality, record, write_picture, write_run

KEY = Measured("ema", 1, "mmd_in_errors")


def test_the_trackers_quality_is_read_and_the_runs_own_file_goes_before_it(tmp_path):
    records = [first(1, 1), quality(1, 1.5, ema_1__mmd_in_errors=9.0, student_1__mmd_in_errors=8.0), record(2, 2)]
    output = write_run(tmp_path / "a/output", records, TWINFLOW)
    [run] = read_runs([output])
    assert run.name == "a"
    assert run.quality[KEY].values.tolist() == [9.0]
    assert run.quality[KEY].seconds.tolist() == [1.0]  # when the step was done, not its measure
    assert run.sources["quality"] == "training_metrics.jsonl"
    line = {"step": 1, "seconds": 77.0, "values": {"ema_1/mmd_in_errors": 4.0}}
    (output / "twinflow").mkdir()
    (output / "twinflow/quality.jsonl").write_text(json.dumps(line), encoding="utf-8")
    write_picture(output / "twinflow/contact_sheet-1.png")
    [run] = read_runs([output])
    assert run.quality[KEY].seconds.tolist() == [77.0]
    assert run.quality[Measured("student", 1, "mmd_in_errors")].values.tolist() == [8.0]
    assert run.sources["quality"] == "twinflow/quality.jsonl"
    assert [(one.label, one.step) for one in run.pictures] == [("twinflow/contact_sheet", 1)]


def test_what_is_amiss_is_said(tmp_path):
    records = [first(1, 1), record(2, 2), first(2, 900), record(3, 901)]
    [run] = read_runs([write_run(tmp_path / "a", records, TWINFLOW, status="running")])
    assert [note.split()[0] for note in run.notes] == ["The", "Resumed", "Steps"]
    assert run.seconds == 3


def test_a_run_that_has_logged_nothing_yet_is_a_run(tmp_path):
    [run] = read_runs([write_run(tmp_path / "a", [], None)])
    assert (run.last_step, run.seconds, run.mode, run.best()) == (None, None, "unknown", {})


def test_a_sheet_that_an_earlier_run_has_logged_under_the_same_name_is_not_shown(tmp_path):
    output = write_run(tmp_path / "a/output", [first(1, 1), record(2, 2)], TWINFLOW)
    (output / "twinflow").mkdir()
    lines = ({"began": 0}, {"step": 1, "seconds": 1.0, "values": {"ema_1/mmd_in_errors": 4.0}})
    (output / "twinflow/quality.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [run] = read_runs([output])
    logged = write_picture(tmp_path / "media/sheet.png")
    run.pictures = [
        Picture(label, step, logged) for step in (1, 9) for label in ("twinflow/contact_sheet", "a - 64x64")
    ]
    add_files(run, output)
    assert [(one.label, one.step) for one in run.pictures] == [
        ("twinflow/contact_sheet", 1),
        ("a - 64x64", 1),
        ("a - 64x64", 9),
    ]
