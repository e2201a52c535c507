"""Fine-tune the demo's tiny SD3 with the real host in three ways that differ by config alone; compare with the base.

python -m benchmarks.sd3 [--seeds 3] [--steps 200] [--output output/benchmarks/sd3]; a run that is done is not repeated.
"""

import argparse
import json
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from rich.console import Console
from rich.markdown import Markdown

from simpletuner_twinflow import TwinFlowScheduler
from testbed.digits import write_digits
from testbed.judge import picture_judge
from testbed.pictures import contact_sheet, sample
from testbed.progress import Progress
from testbed.side_by_side import run_folder, train_side_by_side, trained_pipeline
from testbed.trainer import ROOT, demo_config, without_twinflow

SAMPLES = 1000
STEPS = (1, 2, 4)
BASE, PLAIN, HOST, OURS = "base, untouched", "plain", "host's own TwinFlow", "TwinFlow"
FEW_STEP = (HOST, OURS)  # drawn by the few-step sampler; the others by Euler steps
NOTE = """
{steps} steps of batch 16 from the same base, {seeds} training seed(s): mean ± standard deviation. Frechet distance of
{samples} pictures to the real digits in a classifier's features, lower is better; EMA weights, guidance 0. TwinFlow's
config is `sample_configs/cpu-demo.json` (target step count 2); "host's own TwinFlow" has
`twinflow_implementation: host` on top, "plain" no `twinflow_*` key. TwinFlow models are drawn by the few-step sampler,
the others by Euler steps.
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sd3", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds, from 1 up")
    parser.add_argument("--steps", type=int, default=demo_config()["max_train_steps"])
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/sd3")
    arguments = parser.parse_args()
    console, folder = Console(), arguments.output.resolve()
    if not (folder / "digits").exists():
        write_digits(folder / "digits")
    scores = [scores_of(folder, seed, arguments.steps, console) for seed in range(1, arguments.seeds + 1)]
    text = table(scores) + NOTE.format(steps=arguments.steps, seeds=arguments.seeds, samples=SAMPLES)
    (folder / "sd3.md").write_text(text, encoding="utf-8")
    console.print(Markdown(text))
    console.print(f"table {folder / 'sd3.md'}", soft_wrap=True)


def configs(seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """The host's config of each way to train."""
    ours = demo_config(
        max_train_steps=steps, checkpointing_steps=steps, validation_disable=True, seed=seed, report_to="simpletuner"
    )
    return {PLAIN: without_twinflow(ours), HOST: ours | {"twinflow_implementation": "host"}, OURS: ours}


def scores_of(folder: Path, seed: int, steps: int, console: Console) -> dict[str, dict[str, float]]:
    """Train with one seed in every way, if that has not been done yet, and judge."""
    seeded = folder / f"seed-{seed}"
    file = seeded / "scores.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    seeded.mkdir(parents=True, exist_ok=True)
    if not (seeded / "digits").exists():
        (seeded / "digits").symlink_to(folder / "digits")
    console.print(f"seed {seed}")
    runs = configs(seed, steps)
    missing = {name: config for name, config in runs.items() if not exported(seeded, name).is_dir()}
    for name in missing:
        shutil.rmtree(run_folder(seeded, name), ignore_errors=True)  # the host would go on from what it finds there
    if missing:
        train_side_by_side(seeded, missing, console)
    examiner, labels, rows = picture_judge(), torch.arange(10).repeat(SAMPLES // 10), []
    scores: dict[str, dict[str, float]] = {}
    names = (BASE, *runs)
    torch.set_num_threads(os.cpu_count() or 1)
    with Progress(console, "sets").shown() as progress:
        task = progress.add("drawing and judging", total=len(names) * len(STEPS))
        for name in names:
            pipeline = (
                StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")
                if name == BASE
                else trained_pipeline(seeded, name)
            )
            how = {"scheduler_factory": TwinFlowScheduler, "own_grid": True} if name in FEW_STEP else {}
            scores[name] = {}
            for calls in STEPS:
                images = sample(pipeline, labels, range(SAMPLES), calls, **how)
                scores[name] |= {f"frechet {calls}": examiner.frechet(images)}
                scores[name] |= {f"agreement {calls}": examiner.agreement(images, labels)}
                rows.append((f"{name.replace(' own', '')}, {calls}", images[:20]))
                progress.update(task, len(rows))
    contact_sheet(seeded / "comparison.png", rows, title="The same base, by config")
    file.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return scores


def exported(seeded: Path, name: str) -> Path:
    """What the host writes last of all."""
    return run_folder(seeded, name) / "output/pipeline"


def table(scores: list[dict[str, dict[str, float]]]) -> str:
    """A row a way to train, as Markdown."""
    head = ["", *(f"FD {calls} step{'s' * (calls > 1)}" for calls in STEPS), "class agreement, 1 step"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in scores[0]:
        cells = [_spread([score[name][f"frechet {calls}"] for score in scores], 1) for calls in STEPS]
        cells.append(_spread([score[name]["agreement 1"] for score in scores], 2))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
