"""Where the measures of quality and their contact sheets lie: beside the checkpoints, and on the trackers."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER, HISTORY, SHEET = "twinflow", "quality.jsonl", "contact_sheet"
TRACKER_KEY = "twinflow/contact_sheet"
LAYOUT = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}  # what a tracker needs to be told of a picture


class Records:
    """The records of one run, in `output_dir/twinflow`. Made by the main process as training starts, or goes on."""

    def __init__(self, trainer: Any) -> None:
        self._config, self._accelerator = trainer.config, trainer.accelerator
        self.folder = Path(self._config.output_dir) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        began = int(trainer.state.get("global_step") or 0)
        earlier = [line["seconds"] for line in read_history(self.folder / HISTORY) if line["step"] <= began]
        self._began = time.monotonic() - max(earlier, default=0.0)

    def add(self, values: dict[str, float], samples: int, step: int) -> None:
        """A line with a measure's values; `seconds` is the time of training up to it, without that between two runs."""
        line = {"step": step, "seconds": time.monotonic() - self._began, "samples": samples, "values": values}
        with (self.folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add_sheet(self, sheet: Image.Image, step: int) -> Path:
        """Write the sheet, and show it on the trackers that take pictures, the host's own report among them."""
        from simpletuner.helpers.training.local_metrics import record_validation_media

        path = self.folder / f"{SHEET}-{step}.png"
        sheet.save(path)
        for tracker in self._accelerator.trackers:
            if tracker.name in LAYOUT:
                tracker.log_images({TRACKER_KEY: np.asarray(sheet)[None]}, step=step, **LAYOUT[tracker.name])
        label = f"TwinFlow, step {step}"
        record_validation_media(self._config, path, media_type="image", label=label, index=0)
        return path


def read_history(file: Path) -> list[dict[str, Any]]:
    """The lines of a history, oldest first, without a last one that a killed run cut off; none without the file."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
