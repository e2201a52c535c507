"""Fine-tunes of the demo's base model that are trained at once, and what they exported."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from rich.console import Console

from testbed.progress import Progress
from testbed.trainer import ADAPTER_FILE, ROOT, train, write_run

DEMO_BASE = ROOT / "demo/base"


def run_folder(folder: Path, name: str) -> Path:
    """Where the run of that name lives."""
    return folder / name.lower().replace(" ", "-")


def train_side_by_side(folder: Path, runs: dict[str, dict[str, Any]], console: Console, images: str = "digits") -> None:
    """Train all runs at once, one core each, and show how far each is; the failure of one ends them all.

    Args: folder: of the runs and of their images; runs: configs by name; images: the folder of images there.
    """
    cancelled = threading.Event()
    with Progress(console, "steps").shown() as progress, ThreadPoolExecutor(len(runs)) as pool:
        futures = []
        for name, config in runs.items():
            write_run(run_folder(folder, name), config, folder / images)
            task = progress.add(f"simpletuner train: {name}", total=config["max_train_steps"])
            futures.append(pool.submit(train, run_folder(folder, name), partial(progress.update, task), cancelled))
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [error for future in futures if future.done() and (error := future.exception())]
        finally:
            cancelled.set()
        for error in failed:
            raise error


def base_pipeline(base: Path = DEMO_BASE) -> StableDiffusion3Pipeline:
    """The pipeline that runs begin from."""
    return StableDiffusion3Pipeline.from_pretrained(base)


def trained_pipeline(folder: Path, name: str, base: Path = DEMO_BASE) -> StableDiffusion3Pipeline:
    """The base pipeline with the network or LoRA that a run exported; a plain run's export has no text encoders."""
    output, pipeline = run_folder(folder, name) / "output", base_pipeline(base)
    if (output / ADAPTER_FILE).exists():
        pipeline.load_lora_weights(output, weight_name=ADAPTER_FILE)
    else:
        pipeline.transformer = SD3Transformer2DModel.from_pretrained(output / "pipeline/transformer")
    return pipeline
