"""The host's own tracker's files."""

import math

from simpletuner_twinflow.comparison.local_tracker import numbers, read_manifest, read_metrics, starts_process
from simpletuner_twinflow.comparison.series import Log
from tests.comparison.folders import first, quality, record, write_run


def test_losses_and_quality_are_read_and_other_values_are_not(tmp_path):
    records = [first(1, 1, twinflow__rcgm=0.5, learning_rate=1e-3), quality(1, 2, ema_1__mmd_in_errors=3.0)]
    log = Log()
    assert read_metrics(write_run(tmp_path, records), log) == []
    assert log.series().keys() == {
        "train_loss",
        "iteration_step_time_seconds",
        "twinflow/rcgm",
        "twinflow/quality/ema_1/mmd_in_errors",
    }


def test_a_line_cut_short_is_left_out_and_said(tmp_path):
    write_run(tmp_path, [first(1, 1), record(2, 2)])
    file = tmp_path / "training_metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    log = Log()
    [note] = read_metrics(tmp_path, log)
    assert "1 line cut short" in note
    assert log.series()["train_loss"].steps.tolist() == [1]


def test_a_pause_between_two_processes_is_not_time_of_training(tmp_path):
    log = Log()
    read_metrics(write_run(tmp_path, [first(1, 1), record(2, 2), first(3, 5000), record(4, 5001)]), log)
    assert log.series()["train_loss"].seconds.tolist() == [1, 2, 3, 4]


def test_numbers_are_told_from_words_and_from_truth():
    found = numbers({"a": 1, "b": "NaN", "c": "text", "d": True, "e": None, "f": "-Infinity", "g": [1]})
    assert found.keys() == {"a", "b", "f"}
    assert math.isnan(found["b"])
    assert found["f"] == -math.inf


def test_a_first_step_has_no_rate_over_minutes():
    assert starts_process({"iterations_per_minute_overall": 1.0, "train_loss": 1.0})
    assert not starts_process({"iterations_per_minute_overall": 1.0, "iterations_per_minute_5m": 1.0})
    assert not starts_process({"train_loss": 1.0})


def test_a_broken_manifest_is_an_empty_one(tmp_path):
    assert read_manifest(tmp_path) == {}
    (tmp_path / "training_metrics.json").write_text("[1", encoding="utf-8")
    assert read_manifest(tmp_path) == {}
