"""Processor time of a training step in the host, as a ratio to one of plain training, the ways in turn.

python -m benchmarks.cost [--repeats 5] [--steps 5] [--batch 4] [--kinds full LoRA] [--ways ...]; a quarter of an hour
on a quiet machine. What growing batches cost: --batch 16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.cost.watch import FILE
from benchmarks.cost.ways import ADVERSARIAL, KINDS, PLAIN, WAYS, foretold, prepared
from benchmarks.in_host import watched
from testbed.forkserver import ForkServer
from testbed.trainer import ROOT, datasets, demo_config, without_twinflow, write_run

LIMIT = 900  # seconds of a run
IDLE = 1  # first steps, which fill caches and make the optimizer's state


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each way, in turn")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a process; five have each role's share")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--ways", nargs="*", choices=[*WAYS], default=[*WAYS], help="plain training is measured always")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/cost")
    arguments = parser.parse_args()
    folder, console = arguments.output.resolve(), Console()
    ways = [name for name in WAYS if name == PLAIN or name in arguments.ways]
    server = prepared(folder)
    text = ""
    for kind in arguments.kinds:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(arguments.repeats):
            for name in ways:
                config = run_config(folder, kind, name, arguments)
                took = step_seconds(server, folder / f"{kind}-{list(WAYS).index(name)}", config, folder / "digits")
                seconds[name].append(took)
                console.print(f"{kind}, repeat {repeat + 1}, {name}: {took:.2f} s a step", soft_wrap=True)
        text += f"### {kind}\n\n{table(kind, seconds)}\n"
        (folder / "cost.md").write_text(text, encoding="utf-8")
        (folder / f"{kind}.json").write_text(json.dumps(seconds, indent=1), encoding="utf-8")
    server.close()
    console.print(Markdown(text))


def run_config(folder: Path, kind: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The host's keys of a way."""
    common = {
        "pretrained_model_name_or_path": str(folder / "pipeline"),
        "max_train_steps": IDLE + arguments.steps,
        "checkpointing_steps": 1000,
        "validation_disable": True,
        "report_to": "none",
        "seed": 1,
        "train_batch_size": arguments.batch,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "torch_num_threads": 1,
        "twinflow_quality_samples": 0,
        "twinflow_target_step_count": 1,
        "twinflow_enhanced_ratio": 0.5,
        "twinflow_adversarial_enabled": False,
    }
    config = demo_config(**common | KINDS[kind] | (WAYS[name] or {}))
    return without_twinflow(config) if WAYS[name] is None else config


def step_seconds(server: ForkServer, folder: Path, config: dict[str, Any], images: Path) -> float:
    """Run the host once. Returns: processor seconds of a step, the mean of the measured ones.

    Raises:
        RuntimeError: The run failed; its log's end is in the message.
    """
    shutil.rmtree(folder / "output", ignore_errors=True)
    (times := folder / "times.txt").unlink(missing_ok=True)
    write_run(folder, config, images, data=partial(datasets, resolution=config["resolution"]))
    watched(server, folder, {FILE: str(times)}, "benchmarks.cost.watch:watch", LIMIT)
    moments = [float(line) for line in times.read_text(encoding="utf-8").split()]
    return (moments[-1] - moments[IDLE - 1]) / (len(moments) - IDLE)


def table(kind: str, seconds: dict[str, list[float]]) -> str:
    """A row a way."""
    lines = [
        "| way | x plain (spread) | foretold, network alone | x the host's adversarial step |",
        "|---|---|---|---|",
    ]
    for name, took in seconds.items():
        ratios = [mine / plain for mine, plain in zip(took, seconds[PLAIN], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        share = ""
        if ADVERSARIAL in seconds:
            share = (
                f"{statistics.median(mine / other for mine, other in zip(took, seconds[ADVERSARIAL], strict=True)):.2f}"
            )
        lines.append(f"| {name} | {spread} | {foretold(WAYS[name], KINDS[kind]['model_type'])} | {share} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
