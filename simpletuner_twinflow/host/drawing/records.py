"""Where the measures of quality and their contact sheets lie: beside the checkpoints, and on the trackers."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpletuner_twinflow.comparison.quality_files import FILE, FOLDER, SHEET_FILE, SHEET_LABEL, read_history

LAYOUT = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}  # what a tracker needs to be told of a picture


class Records:
    """The records of one run, in `output_dir/twinflow`. Made by the main process as training starts, or goes on."""

    def __init__(self, trainer: Any) -> None:
        self._config, self._accelerator = trainer.config, trainer.accelerator
        self.folder = Path(self._config.output_dir) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        began = int(trainer.state.get("global_step") or 0)
        self._write({"began": began})  # what an earlier run measured above it is not this run's
        earlier = [line["seconds"] for line in read_history(self.folder.parent, []).measures.values()]
        self._began = time.monotonic() - max(earlier, default=0.0)

    def add(self, values: dict[str, float], samples: int, step: int, *, sheet: bool) -> None:
        """A line with a measure's values; `seconds` is the time of training up to it, without that between two runs.

        Args: sheet: whether one of this step is added, too: an earlier run in the folder may have left another.
        """
        seconds = time.monotonic() - self._began
        self._write({"step": step, "seconds": seconds, "samples": samples, "sheet": sheet, "values": values})

    def _write(self, line: dict[str, Any]) -> None:
        file = self.folder / FILE
        cut = file.exists() and not file.read_bytes().endswith(b"\n")  # by the end of an earlier process
        with file.open("a", encoding="utf-8") as lines:
            lines.write("\n" * cut + json.dumps(line) + "\n")

    def add_sheet(self, sheet: Image.Image, step: int) -> Path:
        """Write the sheet, and show it on the trackers that take pictures, the host's own report among them."""
        from simpletuner.helpers.training.local_metrics import record_validation_media

        path = self.folder / SHEET_FILE.format(step=step)
        sheet.save(path)
        for tracker in self._accelerator.trackers:
            if tracker.name in LAYOUT:
                tracker.log_images({SHEET_LABEL: np.asarray(sheet)[None]}, step=step, **LAYOUT[tracker.name])
        label = f"TwinFlow, step {step}"
        record_validation_media(self._config, path, media_type="image", label=label, index=0)
        return path


def end_earlier(trainer: Any) -> None:
    """For a run that measures nothing: what an earlier one in the same folder measured is not this one's."""
    if (Path(trainer.config.output_dir) / FOLDER / FILE).exists():
        Records(trainer)
