"""`twinflow/quality.jsonl` and the contact sheets beside it."""

import json

from simpletuner_twinflow.comparison.quality_files import contact_sheets, read_quality
from simpletuner_twinflow.comparison.run import Measured
from tests.comparison.folders import write_picture

KEY = Measured("ema", 2, "mmd_in_errors")


def write(folder, *lines: tuple[int, float, float]):
    (folder / "twinflow").mkdir(exist_ok=True)
    text = "".join(
        json.dumps({"step": step, "seconds": seconds, "samples": 64, "values": {"ema_2/mmd_in_errors": value}}) + "\n"
        for step, seconds, value in lines
    )
    (folder / "twinflow/quality.jsonl").write_text(text, encoding="utf-8")


def test_a_line_is_a_point_and_a_step_measured_again_ends_the_old_curve(tmp_path):
    write(tmp_path, (10, 1, 9.0), (20, 2, 5.0), (30, 3, 4.0), (20, 2.5, 6.0))
    quality, notes = read_quality(tmp_path)
    assert notes == []
    assert quality[KEY].steps.tolist() == [10, 20]
    assert quality[KEY].seconds.tolist() == [1, 2.5]
    assert quality[KEY].values.tolist() == [9.0, 6.0]


def began(folder, step: int, *then: int):
    with (folder / "twinflow/quality.jsonl").open("a", encoding="utf-8") as file:
        for line in ({"began": step}, *({"step": at, "values": {"ema_2/mmd_in_errors": 50.0}} for at in then)):
            file.write(json.dumps(line) + "\n")


def test_a_run_begun_anew_has_nothing_of_the_earlier_one(tmp_path):
    write(tmp_path, (100, 1, 1.0), (1000, 10, 0.5))
    for step in (100, 200, 400, 1000):
        write_picture(tmp_path / f"twinflow/contact_sheet-{step}.png")
    began(tmp_path, 0, 200, 400)
    quality, _ = read_quality(tmp_path)
    assert quality[KEY].steps.tolist() == [200, 400]
    assert sorted(sheet.step for sheet in contact_sheets(tmp_path)) == [200, 400]


def test_a_resumed_run_keeps_what_is_up_to_its_step(tmp_path):
    write(tmp_path, (10, 1, 9.0), (20, 2, 5.0), (30, 3, 4.0))
    for step in (10, 20, 30):
        write_picture(tmp_path / f"twinflow/contact_sheet-{step}.png")
    began(tmp_path, 20)
    assert read_quality(tmp_path)[0][KEY].steps.tolist() == [10, 20]
    assert sorted(sheet.step for sheet in contact_sheets(tmp_path)) == [10, 20]


def test_sheet_of_an_earlier_run_is_none_of_a_resumed_one_that_was_begun_anew(tmp_path):
    write(tmp_path, (10, 1, 9.0))
    for step in (10, 20):
        write_picture(tmp_path / f"twinflow/contact_sheet-{step}.png")
    began(tmp_path, 0, 20)
    began(tmp_path, 20)
    assert [sheet.step for sheet in contact_sheets(tmp_path)] == [20]


def test_nan_stays_and_broken_lines_are_said(tmp_path):
    write(tmp_path, (10, 1, float("nan")))
    with (tmp_path / "twinflow/quality.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 20, "val')
    quality, [note] = read_quality(tmp_path)
    assert len(quality[KEY]) == 1
    assert "quality.jsonl" in note


def test_a_run_without_the_file_has_none(tmp_path):
    assert read_quality(tmp_path) == ({}, [])
    assert contact_sheets(tmp_path) == []


def test_contact_sheets_by_step(tmp_path):
    for name in ("contact_sheet-5.png", "contact_sheet-100.png", "contact_sheet-x.png"):
        write_picture(tmp_path / "twinflow" / name)
    assert sorted(sheet.step for sheet in contact_sheets(tmp_path)) == [5, 100]
