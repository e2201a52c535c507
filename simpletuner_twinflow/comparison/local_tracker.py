"""What the host's own tracker (`report_to: simpletuner`) writes into the output folder."""

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from simpletuner_twinflow.comparison.series import Log

METRICS, MANIFEST, REPORT = "training_metrics.jsonl", "training_metrics.json", "training_report.html"
STEP_MARK = "train_loss"  # of a record of a training step
TOOK = "iteration_step_time_seconds"
RATES = "iterations_per_minute_"  # over so many minutes or "overall"; the first step of a process has the latter alone


def read_metrics(folder: Path, log: Log) -> list[str]:
    """Add what was logged.

    Args:
        folder: the run's `output_dir`.
        log: what is added to.

    Returns:
        What is amiss, a sentence each.
    """
    notes: list[str] = []
    for record in json_lines(folder / METRICS, notes):
        metrics, step = record.get("metrics"), record.get("step")
        if not isinstance(metrics, dict) or not isinstance(step, int):
            continue
        values = numbers(metrics)
        if starts_process(values):
            log.begin()
        took = values.get(TOOK, 0.0) if STEP_MARK in values else None
        log.add(step, _clock(record.get("timestamp")), kept(values), took)
    return notes


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the tracker keeps of the run: "status", "config" (some keys) and others; empty where it is unreadable."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def json_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The objects in a file of a JSON object a line. What cannot be read is left out and noted.

    Args:
        path: may be missing.
        notes: a sentence is added if something was left out.
    """
    left_out = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:  # the last line of a run that was killed, as a rule
                    left_out += 1
                    continue
                if isinstance(record, dict):
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}.")
    if left_out:
        notes.append(f"{path.name}: {left_out} line{'s' * (left_out > 1)} cut short or unreadable, left out.")


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those of the values that are numbers; NaN and infinities, which JSON spells as words, among them."""
    found = {}
    for name, value in values.items():
        spelt = isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity")
        if spelt or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[name] = float(value)
    return found


def starts_process(values: dict[str, float]) -> bool:
    """Whether these are the values of the first step that a process trained."""
    return [name for name in values if name.startswith(RATES)] == [f"{RATES}overall"]


def kept(values: dict[str, float]) -> dict[str, float]:
    """Those of the host's values that are compared: losses, TwinFlow's, and the time of a step."""
    wanted = (name for name in values if "loss" in name or name.startswith("twinflow/") or name == TOOK)
    return {name: values[name] for name in wanted if "." not in name}  # W&B tells of its tables and charts so


def _clock(text: Any) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return math.nan
