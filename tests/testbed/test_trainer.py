"""The way to run the trainer, which ends in every case and shows how far it is; a script stands in for it."""

import io
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from testbed import progress, trainer
from testbed.progress import Progress

STAND_IN = Path(__file__).with_name("stand_in_trainer.py")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a function of the stand-in as `simpletuner train`; returns the steps that were told."""

    def start(what: str, cancelled: threading.Event | None = None) -> list[tuple[int, int | None]]:
        command = tmp_path / "bin/simpletuner"
        command.parent.mkdir()
        command.write_text(f"#!{sys.executable}\n{STAND_IN.read_text(encoding='utf-8')}", encoding="utf-8")
        command.chmod(0o755)
        path = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
        monkeypatch.setattr(trainer, "cpu_environment", lambda: path)
        monkeypatch.setattr(trainer, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(trainer, "EXIT_SECONDS", 0.5)
        monkeypatch.setattr(trainer, "SILENT_SECONDS", 2.0)
        monkeypatch.setenv("PATH", path["PATH"])
        monkeypatch.setenv("STAND_IN", what)
        told: list[tuple[int, int | None]] = []
        trainer.train(tmp_path, lambda step, total: told.append((step, total)), cancelled)
        return told

    return start


def test_steps_are_told_as_they_come(run):
    told = run("three_steps")
    assert told == sorted(told, key=lambda step: step[0])
    assert {(0, None), (1, 3), (2, 3)} <= {*told}


def test_trainer_that_dies_shows_its_last_lines(run):
    with pytest.raises(RuntimeError, match=r"(?s)simpletuner train failed.*out of paper.*The whole log"):
        run("die")


@pytest.mark.parametrize("finish", ["finish_without_exit", "finish_lora_without_exit"])
def test_finished_trainer_that_does_not_exit_is_ended_with_one_line(run, finish, tmp_path, capfd):
    began = time.monotonic()
    run(finish)
    assert time.monotonic() - began < 10
    assert capfd.readouterr().out.count("finished, but did not exit") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log.txt").read_text()), 0)


def test_trainer_that_says_nothing_for_long_is_ended_as_failed(run):
    with pytest.raises(RuntimeError, match=r"(?s)last words.*said nothing for 2 s"):
        run("fall_silent")


def test_cancelled_trainer_is_ended(run):
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    with pytest.raises(RuntimeError, match="failed"):
        run("sleep", cancelled)


def test_progress_is_plain_lines_where_the_output_is_a_file(monkeypatch):
    clock = iter([0.0, 1.0, 5.0, 25.0, 26.0, 50.0, 51.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    board = Progress(Console(file=file, force_terminal=False), "steps")
    with board.shown():
        task = board.add("plain", total=200)  # at 0 s
        for step in (0, 0, 3, 4, 200, 200):  # at 1, 5, 25, 26, 50 and 51 s
            board.update(task, step)
    assert file.getvalue().splitlines() == ["plain: started", "plain: 3/200 steps, 25 s", "plain: 200/200 steps, 50 s"]
