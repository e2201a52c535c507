"""The demo: one base model fine-tuned by the real trainer, plain and with TwinFlow, and what both draw in few steps.

python -m demo.run [--output output/demo] [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.table import Table
from torch import Tensor

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.quality.features import Scale, random_features
from simpletuner_twinflow.quality.measures import discrepancy
from testbed.pictures import sample
from testbed.progress import Progress
from testbed.shapes import CAPTIONS, KINDS, render_shapes, write_shapes
from testbed.side_by_side import base_pipeline, run_folder, train_side_by_side
from testbed.trainer import ROOT, demo_config, without_twinflow

BASE = ROOT / "demo/shapes_base"
CALLS = (1, 2, 4)  # of the network, per picture
BASE_CALLS = 20
IMAGES, MEASURED, SHOWN = 2000, 200, 2 * len(KINDS)
POINTS = 4  # of the curves
PLAIN, TWINFLOW = "plain", "TwinFlow"


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "output/demo")
    parser.add_argument("--steps", type=int, default=demo_config()["max_train_steps"])
    parser.add_argument("--seed", type=int, default=demo_config()["seed"], help="of both training runs")
    arguments = parser.parse_args()
    console, start = Console(), time.monotonic()
    folder = arguments.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)

    write_shapes(folder / "shapes", IMAGES)
    interval = max(1, arguments.steps // POINTS)
    config = demo_config(
        pretrained_model_name_or_path=str(BASE),
        validation_prompt=CAPTIONS[0],
        max_train_steps=arguments.steps,
        checkpointing_steps=interval,
        checkpoints_total_limit=POINTS + 1,
        validation_steps=max(1, arguments.steps // 2),
        twinflow_quality_interval=interval,
        seed=arguments.seed,
    )
    runs = {PLAIN: without_twinflow(config), TWINFLOW: config}
    train_side_by_side(folder, runs, console, images="shapes")
    torch.set_num_threads(os.cpu_count() or 1)
    diffusers_logging.set_verbosity_error()  # checkpoints hold more than a pipeline needs, and it would say so
    judged = Judged(folder, console)
    judged.everything(tuple(runs), range(interval, arguments.steps + 1, interval))
    judged.picture(folder / "comparison.png")
    report(judged, console)
    page = folder / "compare"
    command = [sys.executable, "-m", "simpletuner_twinflow.cli", "compare", "--output", str(page)]
    subprocess.run([*command, *(str(run_folder(folder, name)) for name in runs)], check=True, stdout=subprocess.DEVNULL)
    console.print(f"took {(time.monotonic() - start) / 60:.1f} minutes. Open these two:")
    console.print(f"  {folder / 'comparison.png'}\n  {page / 'compare.html'}", soft_wrap=True, highlight=False)


class Judged:
    """What was drawn, and how far it is from shapes that nobody was trained on."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        images, self._labels = render_shapes(MEASURED, seed=2)
        self._real = images.float() / 255
        self._scale = Scale.of(self._real)
        self._features = self._seen(self._real)
        self.pictures: dict[tuple[str, int], Tensor] = {}
        self.distances: dict[tuple[str, int, int], float] = {}  # by name, training steps and calls

    def everything(self, names: tuple[str, ...], steps: range) -> None:
        """Draw with the base, and with each run's EMA weights at each of these steps."""
        jobs = [("base", 0, BASE_CALLS), *(("base", 0, calls) for calls in CALLS)]
        jobs += [(name, step, calls) for name in names for step in steps for calls in CALLS]
        pipeline, loaded = base_pipeline(BASE), ("base", 0)
        with Progress(self._console, "sets").shown() as progress:
            task = progress.add("drawing and judging", total=len(jobs))
            for number, (name, step, calls) in enumerate(jobs, start=1):
                if loaded != (name, step):
                    self._load(pipeline, name, step)
                    loaded = (name, step)
                self._judge(pipeline, name, step, calls)
                progress.update(task, number)

    def _load(self, pipeline: StableDiffusion3Pipeline, name: str, step: int) -> None:
        checkpoint = run_folder(self._folder, name) / f"output/checkpoint-{step}/transformer_ema"
        pipeline.transformer = SD3Transformer2DModel.from_pretrained(checkpoint)

    def _judge(self, pipeline: StableDiffusion3Pipeline, name: str, step: int, calls: int) -> None:
        how: dict[str, Any] = {"scheduler_factory": TwinFlowScheduler, "own_grid": True} if name == TWINFLOW else {}
        images = sample(pipeline, self._labels, range(MEASURED), calls, captions=CAPTIONS, **how)
        self.pictures[name, calls] = images[:SHOWN]
        self.distances[name, step, calls] = discrepancy(self._seen(images), self._features).ratio

    def _seen(self, images: Tensor) -> Tensor:
        return random_features(self._scale(images))

    def picture(self, path: Path) -> None:
        """The pictures in rows, and the distances over training as curves."""
        rows = [("real", self._real[:SHOWN]), (f"base, {BASE_CALLS} steps", self.pictures["base", BASE_CALLS])]
        rows += [
            (f"{name}, {calls} step{'s' if calls > 1 else ''}", self.pictures[name, calls])
            for calls in CALLS
            for name in (PLAIN, TWINFLOW)
        ]
        figure = plt.figure(figsize=(15, 6.2), facecolor="white")
        left, right = figure.subfigures(1, 2, width_ratios=(2, 1))
        left.suptitle("One base, fine-tuned plain and with TwinFlow; prompts: a circle, a square, a diamond, ...")
        grid = left.add_gridspec(len(rows), 1, left=0.16, right=0.99, top=0.92, bottom=0.02, hspace=0.08)
        for place, (name, images) in zip(grid, rows, strict=True):
            axes = left.add_subplot(place)
            axes.imshow(torch.cat(list(images), dim=2).permute(1, 2, 0).numpy(), aspect="auto")
            axes.set_ylabel(name, rotation=0, ha="right", va="center", weight="bold" if TWINFLOW in name else "normal")
            axes.set(xticks=[], yticks=[])
        self._curves(right.add_subplot())
        figure.savefig(path, dpi=110)
        plt.close(figure)

    def _curves(self, axes: Any) -> None:
        for calls, style in zip(CALLS, ("-", "--", ":"), strict=True):
            for name, colour in ((PLAIN, "tab:grey"), (TWINFLOW, "tab:blue")):
                steps = [0, *(step for who, step, n in self.distances if who == name and n == calls)]
                values = [self.distances["base", 0, calls], *(self.distances[name, step, calls] for step in steps[1:])]
                axes.plot(steps, values, style, color=colour, label=f"{name}, {calls} step{'s' if calls > 1 else ''}")
        axes.axhline(3, color="tab:green", linewidth=0.8)
        axes.set(xlabel="training steps", ylabel="distance to real pictures (MMD in standard errors)", yscale="symlog")
        axes.set_title("Below the green line: not to be told from real ones", fontsize=10)
        axes.legend(fontsize=8)


def report(judged: Judged, console: Console) -> None:
    """Print the distances at the end of training."""
    last = max(step for _, step, _ in judged.distances)
    title = f"Distance of {MEASURED} pictures to real ones, MMD in standard errors (below 3: not to be told apart)"
    table = Table(title=title)
    table.add_column("network calls per picture", justify="right")
    for name in ("base", PLAIN, TWINFLOW):
        table.add_column(name, justify="right")
    for calls in CALLS:
        shown = [("base", 0), (PLAIN, last), (TWINFLOW, last)]
        table.add_row(str(calls), *(f"{judged.distances[name, step, calls]:.1f}" for name, step in shown))
    table.add_row(str(BASE_CALLS), f"{judged.distances['base', 0, BASE_CALLS]:.1f}", "", "")
    console.print(table)


if __name__ == "__main__":
    main()
