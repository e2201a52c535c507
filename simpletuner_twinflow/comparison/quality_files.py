"""What a TwinFlow run leaves of itself in its output folder: `twinflow/run.json`, `quality.jsonl`, contact sheets.

The first has what the trackers' configuration is told, `{"twinflow/passes_per_row": 5.5, ...}`. A line of the second
is a measure: {"step": int, "seconds": float, of training since its start, "samples": int, "values":
{"ema_2/mmd_in_errors": float, ...}}.
"""

import math
import re
from pathlib import Path

from simpletuner_twinflow.comparison.local_tracker import json_lines, numbers
from simpletuner_twinflow.comparison.run import Measured, Picture, measured
from simpletuner_twinflow.comparison.series import Series

FOLDER, FILE, RUN_FILE = "twinflow", "quality.jsonl", "run.json"
SHEET_FILE = "contact_sheet-{step}.png"
SHEET = re.compile(SHEET_FILE.replace(".", r"\.").format(step=r"(\d+)"))
SHEET_LABEL = "twinflow/contact_sheet"  # under which the sheets are logged, too


def read_quality(output: Path) -> tuple[dict[Measured, Series], list[str]]:
    """The quality curves, and what is amiss. Args: output: the run's `output_dir`."""
    notes: list[str] = []
    points: dict[Measured, dict[int, tuple[float, float]]] = {}
    for line in json_lines(output / FOLDER / FILE, notes):
        step, values = line.get("step"), line.get("values")
        if not isinstance(step, int) or not isinstance(values, dict):
            continue
        for own in points.values():  # a step that is trained again ends what was measured after it
            for later in [each for each in own if each >= step]:
                del own[later]
        seconds = numbers(line).get("seconds", math.nan)
        for name, value in numbers(values).items():
            if key := measured(name):
                points.setdefault(key, {})[step] = (seconds, value)
    return {key: Series.of(own) for key, own in points.items() if own}, notes


def contact_sheets(output: Path) -> list[Picture]:
    """The sheets that were drawn while training. Args: output: the run's `output_dir`."""
    found = ((SHEET.fullmatch(path.name), path) for path in sorted((output / FOLDER).glob(SHEET_FILE.format(step="*"))))
    return [Picture(SHEET_LABEL, int(match[1]), path) for match, path in found if match]
