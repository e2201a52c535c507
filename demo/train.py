"""Starts `simpletuner train` as a user would, on the demo's base model and digits, and follows its progress."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "sample_configs/cpu-demo.json"
PROGRESS = re.compile(r"Steps:.*?(\d+)/(\d+) \[")


def demo_config(**changes: Any) -> dict[str, Any]:
    """The demo's config with paths that hold from any folder, and with these changes."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    return config | {"pretrained_model_name_or_path": str(ROOT / "demo/base")} | changes


def without_twinflow(config: dict[str, Any]) -> dict[str, Any]:
    """The same run as plain flow matching."""
    return {key: value for key, value in config.items() if not key.startswith("twinflow_")}


def datasets(images: Path) -> list[dict[str, Any]]:
    """The host's data config for a folder of images with captions beside them."""
    image_set = {
        "id": "digits",
        "type": "local",
        "crop": False,
        "resolution": 64,
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "caption_strategy": "textfile",
        "instance_data_dir": str(images),
        "cache_dir_vae": "cache/vae",
        "repeats": 20,
    }
    text = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}
    return [image_set, text]


def write_run(folder: Path, config: dict[str, Any], images: Path) -> None:
    """Lay out a run's folder: `config/config.json` and `config/data.json`."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config/data.json").write_text(json.dumps(datasets(images), indent=1), encoding="utf-8")
    (folder / "config/config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def cpu_environment() -> dict[str, str]:
    """The variables with which the host's commands of this environment train offline, in float32, on one core."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "MIXED_PRECISION": "no",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHDYNAMO_DISABLE": "1",
        "WANDB_MODE": "offline",
    }


def train(folder: Path, on_step: Callable[[int, int], None]) -> None:
    """Run the trainer in `folder`; its output goes to `log.txt` there.

    Args:
        folder: laid out by `write_run`.
        on_step: told the step and the number of steps as they come.

    Raises:
        RuntimeError: The trainer failed; the message ends with the last lines of its log.
    """
    environment = os.environ | cpu_environment() | {"PYTHONPATH": str(ROOT / "demo/cpu")}
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["simpletuner", "train"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        rest = b""
        while chunk := process.stdout.read1(4096):
            file.write(chunk)
            file.flush()
            *_, found = [None, *PROGRESS.finditer((rest + chunk).decode(errors="replace"))]
            rest = chunk[-200:]
            if found:
                on_step(int(found[1]), int(found[2]))
    if process.wait():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError("simpletuner train failed:\n" + "\n".join(lines[-40:]) + f"\nThe whole log: {log}")
