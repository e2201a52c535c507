"""What Weights & Biases keeps of a run on disk, offline or not, read back by its own command."""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simpletuner_twinflow.comparison.local_tracker import STEP_MARK, TOOK, kept, numbers
from simpletuner_twinflow.comparison.run import Picture
from simpletuner_twinflow.comparison.series import Log
from simpletuner_twinflow.errors import TwinFlowError

FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-(?P<id>.+)")
IMAGE = "image-file"  # W&B's word for a picture in the history; its other keys are beside it, after a dot


def wandb_file(folder: Path) -> Path | None:
    """The transaction log in a W&B run's folder."""
    return next(iter(sorted(folder.glob("run-*.wandb"))), None) if folder.is_dir() else None


def run_id(folder: Path) -> str:
    """The id of a W&B run, which a resumed run keeps. Args: folder: that has a `wandb_file`."""
    file = wandb_file(folder)
    return (file.stem if file else folder.name).removeprefix("run-")


def read_wandb(folder: Path, log: Log) -> tuple[dict[str, Any], list[Picture], list[str]]:
    """Add what was logged.

    Args:
        folder: of one W&B run, `wandb/offline-run-<time>-<id>`.
        log: what is added to.

    Returns:
        The recorded configuration, the pictures that are there, and what is amiss, a sentence each.

    Raises:
        TwinFlowError: W&B is not installed or too old to read its files.
    """
    config: dict[str, Any] = {}
    pictures: list[Picture] = []
    notes: list[str] = []
    ended = False
    for record in _records(folder, notes):
        if isinstance(item := record.get("history", {}).get("item"), dict):
            values, step = numbers(item), item.get("_step")
            if isinstance(step, int):
                took = values.get(TOOK, 0.0) if STEP_MARK in values else None
                log.add(step, values.get("_timestamp", math.nan), kept(values), took)
                pictures += _pictures(item, step, folder / "files")
        elif "config" in record:
            config |= record["config"].get("update") or {}
        elif "exit" in record:
            ended = True
    if not ended and not notes:
        notes.append(f"{folder.name} has no end: the run goes on or was killed. It is read as far as it goes.")
    return {name: value for name, value in config.items() if not name.startswith("_wandb")}, pictures, notes


def _records(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    if find_spec("wandb") is None:
        raise TwinFlowError(f"{folder}: reading W&B's files needs wandb, which SimpleTuner brings: pip install wandb.")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(wandb_file(folder))]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}  # nothing is sent
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment) as process:
            some = False
            for line in process.stdout or ():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                some = True
                yield record
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if "No such command" in words:
        raise TwinFlowError(f"{folder}: the installed wandb cannot read its own files: pip install 'wandb>=0.31'.")
    if not some:
        notes.append(f"{folder.name} could not be read: {(words or 'it holds no record').splitlines()[-1]}.")
    elif "corrupt" in words:
        notes.append(f"{folder.name} is damaged: what could not be read was left out.")


def _pictures(item: dict[str, Any], step: int, files: Path) -> Iterator[Picture]:
    for name, kind in item.items():
        label = name.removesuffix("._type")
        if kind == IMAGE and label != name and isinstance(path := item.get(f"{label}.path"), str):
            whole = files / path
            # Only what lies in the run's own folder: the name comes out of a file.
            if whole.is_file() and whole.resolve().is_relative_to(files.resolve()):
                yield Picture(label, step, whole)


def began(folder: Path) -> float:
    """When a W&B run's folder was made, by its name, in seconds of the local clock; 0 if it does not say."""
    try:
        return datetime.strptime(folder.name.split("-")[-2], "%Y%m%d_%H%M%S").timestamp()
    except (ValueError, IndexError):
        return 0.0
