"""Starts `simpletuner train` as a user would, on the demo's base model and digits, and follows its progress."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "sample_configs/cpu-demo.json"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
FRAMES = 9  # of a film
POLL_SECONDS = 0.5
EXIT_SECONDS = 30.0  # a finished trainer takes a few to exit
SILENT_SECONDS = 600.0  # its longest silence is its import, a minute on a slow machine
PROGRESS = re.compile(r"Steps:.*?(\d+)/(\d+) \[")


def demo_config(**changes: Any) -> dict[str, Any]:
    """The demo's config with paths that hold from any folder, and with these changes."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    return config | {"pretrained_model_name_or_path": str(ROOT / "demo/base")} | changes


def without_twinflow(config: dict[str, Any]) -> dict[str, Any]:
    """The same run as plain flow matching."""
    return {key: value for key, value in config.items() if not key.startswith("twinflow_")}


def datasets(images: Path, resolution: int = 64) -> list[dict[str, Any]]:
    """The host's data config for a folder of images with captions beside them. Args: resolution: their sides, px."""
    image_set = {
        "id": "digits",
        "type": "local",
        "crop": False,
        "resolution": resolution,
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "caption_strategy": "textfile",
        "instance_data_dir": str(images),
        "cache_dir_vae": "cache/vae",
        "repeats": 20,
    }
    text = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}
    return [image_set, text]


def sound_datasets(songs: Path) -> list[dict[str, Any]]:
    """The host's data config for a folder of songs with captions beside them, in stereo at 44,100 samples a second."""
    song_set, text = datasets(songs)
    of_pictures = ("crop", "resolution", "resolution_type", "minimum_image_size")
    kept = {key: value for key, value in song_set.items() if key not in of_pictures}
    audio = {"bucket_strategy": "duration", "duration_interval": 0.5, "sample_rate": 44_100, "channels": 2}
    return [kept | {"id": "tones", "dataset_type": "audio", "audio": audio}, text]


def film_datasets(films: Path) -> list[dict[str, Any]]:
    """The host's data config for a folder of films with captions beside them, each to be made of its first frame."""
    film_set, text = datasets(films)
    video = {"num_frames": FRAMES, "min_frames": FRAMES, "is_i2v": True}
    return [film_set | {"id": "clips", "dataset_type": "video", "video": video}, text]


def write_run(
    folder: Path,
    config: dict[str, Any],
    samples: Path,
    *,
    data: Callable[[Path], list[dict[str, Any]]] = datasets,
) -> None:
    """Lay out a run's folder: `config/config.json` and `config/data.json`.

    Args:
        folder: made if missing.
        config: the run's keys.
        samples: a folder of images, films or songs.
        data: gives the data config for it.
    """
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config/data.json").write_text(json.dumps(data(samples), indent=1), encoding="utf-8")
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


def train(folder: Path, on_step: Callable[[int, int | None], None], cancelled: threading.Event | None = None) -> None:
    """Run the trainer in `folder`; its output goes to `log.txt` there.

    It ends in every case: a trainer that has written its last file and does not exit is ended with one line saying so,
    and one that says nothing for a long time is ended as failed.

    Args:
        folder: laid out by `write_run`.
        on_step: told the step and the number of steps, once a second at least; the number is None until the trainer
            has said it.
        cancelled: set by another thread to end the trainer.

    Raises:
        RuntimeError: The trainer failed; the message ends with the last lines of its log.
    """
    environment = os.environ | cpu_environment() | {"PYTHONPATH": str(ROOT / "testbed/cpu"), "PYTHONUNBUFFERED": "1"}
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["simpletuner", "train"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all its children
        )
    try:
        ended_well = _follow(process, folder, log, on_step, cancelled or threading.Event())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not ended_well:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError("simpletuner train failed:\n" + "\n".join(lines[-40:]) + f"\nThe whole log: {log}")


def _follow(
    process: subprocess.Popen,
    folder: Path,
    log: Path,
    on_step: Callable[[int, int | None], None],
    cancelled: threading.Event,
) -> bool:
    """Wait for the trainer's end, which may have to be forced; whether it has done its work."""
    seen, step, total, spoke = 0, 0, None, time.monotonic()
    while process.poll() is None:
        if cancelled.wait(POLL_SECONDS):
            return False
        if (size := log.stat().st_size) > seen:
            with log.open("rb") as file:
                file.seek(max(0, seen - 200))
                *_, found = [None, *PROGRESS.finditer(file.read().decode(errors="replace"))]
            seen, spoke = size, time.monotonic()
            if found:
                step, total = int(found[1]), int(found[2])
        on_step(step, total)
        silent = time.monotonic() - spoke
        if silent > EXIT_SECONDS and is_finished(folder):
            # On its way out SimpleTuner can wait for a queue that nobody reads any more.
            print(f"{folder.name}: finished, but did not exit for {silent:.0f} s, so it was ended", flush=True)
            return True
        if silent > SILENT_SECONDS:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nIt said nothing for {silent:.0f} s and was ended.\n")
            return False
    return process.returncode == 0


def is_finished(folder: Path) -> bool:
    """Whether the run in this folder has written the last of its files: a full fine-tune's pipeline, or the LoRA."""
    return any((folder / "output" / file).exists() for file in ("pipeline/model_index.json", ADAPTER_FILE))
