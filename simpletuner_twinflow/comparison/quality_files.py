"""What a TwinFlow run leaves of itself in its output folder: `twinflow/run.json`, `quality.jsonl`, contact sheets.

The first has what the trackers' configuration is told, `{"twinflow/passes_per_row": 5.5, ...}`. A line of the second
is a measure: {"step": int, "seconds": float, of training since its start, "samples": int, "sheet": bool, whether one
was drawn, "values": {"ema_2/mmd_in_errors": float, ...}}, or where a process began: {"began": int}, the step that it
went on from, 0 if it began anew. Runs of older versions have no such lines, and no "sheet".
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simpletuner_twinflow.comparison.local_tracker import json_lines, numbers
from simpletuner_twinflow.comparison.run import Measured, Picture, measured
from simpletuner_twinflow.comparison.series import Series

FOLDER, FILE, RUN_FILE = "twinflow", "quality.jsonl", "run.json"
SHEET_FILE = "contact_sheet-{step}.png"
SHEET = re.compile(SHEET_FILE.replace(".", r"\.").format(step=r"(\d+)"))
SHEET_LABEL = "twinflow/contact_sheet"  # under which the sheets are logged, too


@dataclass
class History:
    """What of the lines is of the run as it stands."""

    measures: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By step, oldest first."""
    untold: float = math.inf
    """Up to this step a sheet may be of the run without its measure: no line says that a process began before it."""

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> "History":
        """Args: lines: in the order in which they were written."""
        history = cls()
        for line in lines:
            began, step = line.get("began"), line.get("step")
            if isinstance(began, int):
                history._end_after(began)
                history.untold = min(history.untold, began)
            elif isinstance(step, int) and isinstance(line.get("values"), dict):
                history._end_after(step - 1)  # a step that is trained again ends what was measured after it
                history.measures[step] = line
        return history

    def has_sheet(self, step: int) -> bool:
        """Whether a sheet of this step is this run's: an earlier run in the same folder may have left it."""
        if (measure := self.measures.get(step)) is not None:
            return measure.get("sheet") is not False
        return step <= self.untold

    def _end_after(self, step: int) -> None:
        self.measures = {at: line for at, line in self.measures.items() if at <= step}


def read_history(output: Path, notes: list[str]) -> History:
    """Empty without the file. Args: output: the run's `output_dir`; notes: gets what is amiss, a sentence each."""
    return History.of(json_lines(output / FOLDER / FILE, notes))


def read_quality(output: Path) -> tuple[dict[Measured, Series], list[str]]:
    """The quality curves, and what is amiss. Args: output: the run's `output_dir`."""
    notes: list[str] = []
    points: dict[Measured, dict[int, tuple[float, float]]] = {}
    for step, line in read_history(output, notes).measures.items():
        seconds = numbers(line).get("seconds", math.nan)
        for name, value in numbers(line["values"]).items():
            if key := measured(name):
                points.setdefault(key, {})[step] = (seconds, value)
    return {key: Series.of(own) for key, own in points.items()}, notes


def contact_sheets(output: Path) -> list[Picture]:
    """The sheets that were drawn while training. Args: output: the run's `output_dir`."""
    history = read_history(output, [])
    found = ((SHEET.fullmatch(path.name), path) for path in sorted((output / FOLDER).glob(SHEET_FILE.format(step="*"))))
    sheets = [Picture(SHEET_LABEL, int(match[1]), path) for match, path in found if match]
    return [sheet for sheet in sheets if history.has_sheet(sheet.step)]
