"""The demo: one base model fine-tuned by the real trainer, plain and with TwinFlow, and what both draw in few steps.

python -m demo.run [--output output/demo] [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from simpletuner_twinflow import TwinFlowScheduler
from testbed.digits import write_digits
from testbed.judge import picture_judge
from testbed.pictures import contact_sheet, sample
from testbed.progress import Progress
from testbed.side_by_side import run_folder, train_side_by_side, trained_pipeline
from testbed.trainer import ROOT, demo_config, without_twinflow

NFE = (1, 2, 4)
SAMPLES = 1000
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

    write_digits(folder / "digits")
    config = demo_config(
        max_train_steps=arguments.steps,
        checkpointing_steps=arguments.steps,
        validation_steps=max(1, arguments.steps // 2),
        seed=arguments.seed,
    )
    runs = {PLAIN: without_twinflow(config), TWINFLOW: config}
    train_side_by_side(folder, runs, console)
    distances = judge(folder, runs, console)
    report(folder, distances, console)
    console.print(f"took {(time.monotonic() - start) / 60:.1f} minutes")


def judge(folder: Path, runs: dict[str, Any], console: Console) -> dict[str, dict[int, float]]:
    """Frechet distance of each run at each number of steps; writes the pictures too."""
    torch.set_num_threads(os.cpu_count() or 1)
    examiner, labels = picture_judge(), torch.arange(10).repeat(SAMPLES // 10)
    distances: dict[str, dict[int, float]] = {}
    rows = []
    with Progress(console, "sets").shown() as progress:
        task = progress.add("drawing and judging", total=len(runs) * len(NFE))
        for name in runs:
            pipeline = trained_pipeline(folder, name)
            how = {"scheduler_factory": TwinFlowScheduler, "own_grid": True} if name == TWINFLOW else {}
            distances[name] = {}
            for steps in NFE:
                images = sample(pipeline, labels, range(SAMPLES), steps, **how)
                distances[name][steps] = examiner.frechet(images)
                rows.append((f"{name}, {steps} step{'s' if steps > 1 else ''}", images[:20]))
                progress.update(task, len(rows))
    order = [row for steps in NFE for row in rows if f", {steps} step" in row[0]]
    contact_sheet(folder / "comparison.png", order, title="The same base, fine-tuned plain and with TwinFlow")
    return distances


def report(folder: Path, distances: dict[str, dict[int, float]], console: Console) -> None:
    """Print the table of distances and where everything lies."""
    table = Table(title=f"Frechet distance of {SAMPLES} pictures to the real digits (lower is better)")
    table.add_column("network calls per picture", justify="right")
    for name in distances:
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right")
    for steps in NFE:
        plain, twinflow = (distances[name][steps] for name in (PLAIN, TWINFLOW))
        table.add_row(str(steps), f"{plain:.2f}", f"{twinflow:.2f}", f"{plain / twinflow:.1f} x")
    console.print(table)
    console.print(f"pictures     {folder / 'comparison.png'}")
    for name in distances:
        for wandb_run in sorted(run_folder(folder, name).glob("wandb/offline-run-*")):
            console.print(f"W&B offline  {wandb_run}  ({name})", soft_wrap=True)


if __name__ == "__main__":
    main()
