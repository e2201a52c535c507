"""Small runs on disk, as the host and the plugin leave them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAIN = {"model_family": "sd3", "model_type": "full", "train_batch_size": 4, "twinflow_enabled": False}
TWINFLOW = PLAIN | {"twinflow_enabled": True, "twinflow_target_step_count": 2, "twinflow_enhanced_ratio": 0.5}


def record(step: int, seconds: float, **metrics: object) -> dict:
    """A line of the host's tracker; training steps took a second each."""
    values = {"train_loss": 1.0 / step, "iteration_step_time_seconds": 1.0, "iterations_per_minute_5m": 60.0} | metrics
    values = {name.replace("__", "/"): value for name, value in values.items() if value is not None}
    return {"timestamp": (START + timedelta(seconds=seconds)).isoformat(), "step": step, "metrics": values}


def first(step: int, seconds: float, **metrics: object) -> dict:
    """The first training step of a process, whose rate over minutes is not known yet."""
    return record(step, seconds, iterations_per_minute_5m=None, iterations_per_minute_overall=60.0, **metrics)


def quality(step: int, seconds: float, **values: float) -> dict:
    """What is logged of a measure, `ema_1__mmd_in_errors=2.0`."""
    line = record(step, seconds)
    line["metrics"] = {f"twinflow/quality/{name.replace('__', '/')}": value for name, value in values.items()}
    return line


def write_run(output: Path, records: list[dict], config: dict | None = None, status: str = "completed") -> Path:
    """An output folder with the host's tracker's files; returns it."""
    output.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    (output / "training_metrics.jsonl").write_text(lines, encoding="utf-8")
    (output / "training_metrics.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    if config is not None:
        (output / "simpletuner_config.json").write_text(json.dumps(config), encoding="utf-8")
    return output


def write_picture(path: Path, colour: str = "red", size: tuple[int, int] = (32, 32)) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path
