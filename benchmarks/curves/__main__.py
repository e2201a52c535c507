"""Distance to the data against processor time, on digits and in the host: ours, plain, SimpleTuner's own, reference.

python -m benchmarks.curves [--seeds 3] [--output output/benchmarks/curves]; half an hour a seed on two cores; an
interrupted run resumes.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.curves.host import CALLS, OURS, Curve, curves
from benchmarks.digits.__main__ import prepare, train
from benchmarks.digits.report import read_results
from benchmarks.digits.workers import Job
from testbed.trainer import ROOT

DIGITS = {
    "flow_matching": "plain",
    "host_default": "SimpleTuner's own",
    "host_adversarial": "SimpleTuner's own, adversarial",
    "tutorial": "reference recipe",
    "adversarial_off": OURS,
}
DIGITS_STEPS, DIGITS_LONGER = 1500, 4500  # the second is ours in about the reference's time
SHARES = (0.1, 0.25, 0.5, 1.0)  # of the time that ours takes in all, in the table


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of each way, from 1 up")
    parser.add_argument("--steps", type=int, default=200, help="of the host's runs")
    parser.add_argument("--every", type=int, default=25, help="steps between two looks in the host")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/curves")
    arguments = parser.parse_args()
    folder, console = arguments.output.resolve(), Console()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    prepare(folder, console)
    seeds = range(1, arguments.seeds + 1)
    wanted = [
        Job(name, seed, DIGITS_LONGER if title == OURS else DIGITS_STEPS)
        for seed in seeds
        for name, title in DIGITS.items()
    ]
    made = [Job(record["variant"], record["seed"], record["steps"]) for record in read_results(results)]
    jobs = [job for job in wanted if job not in made]
    if train(jobs, arguments.at_once, folder, results, console):
        raise SystemExit("A run failed; start again to repeat it.")
    digits: dict[str, list[Curve]] = {title: [] for title in DIGITS.values()}
    for record in read_results(results):
        if Job(record["variant"], record["seed"], record["steps"]) in wanted:
            digits[DIGITS[record["variant"]]].append(record["curve"])
    hosts: dict[str, list[Curve]] = {title: [] for title in DIGITS.values()}
    for seed in seeds:
        for name, curve in curves(folder, seed, arguments.steps, arguments.every, arguments.at_once, console).items():
            hosts[name].append(curve)
    parts = {"Digits, perceptron": digits, "Digits, tiny SD3 in SimpleTuner": hosts}
    text = "\n".join(f"### {title}\n\n{table(part)}" for title, part in parts.items())
    (folder / "curves.md").write_text(text, encoding="utf-8")
    draw(parts, folder / "distance_time.png")
    console.print(Markdown(text))


def table(part: dict[str, list[Curve]]) -> str:
    """The distance that each way has reached at shares of the time that ours takes, by the number of calls."""
    whole = min(curve[-1][0] for curve in part[OURS])
    times = [share * whole for share in SHARES]
    head = [f"{time:.0f} s, {calls} step{'s' * (calls > 1)}" for calls in CALLS for time in times]
    lines = [f"| | {' | '.join(head)} |", f"|{'---|' * (1 + len(head))}"]
    for name, mine in part.items():
        cells = [_mean([at(curve, calls, time) for curve in mine]) for calls in CALLS for time in times]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def at(curve: Curve, calls: int, time: float) -> float | None:
    """The distance at that time, between two looks in proportion; None before the first and after the last."""
    seconds = [moment for moment, _ in curve]
    if not seconds[0] <= time <= seconds[-1]:
        return None
    return float(np.interp(time, seconds, [scores[str(calls)] for _, scores in curve]))


def _mean(values: list[float | None]) -> str:
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return ""
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.1f}{spread}"


def draw(parts: dict[str, dict[str, list[Curve]]], path: Path) -> None:
    """A plot a problem and number of calls, a line a seed."""
    figure, places = plt.subplots(len(CALLS), len(parts), figsize=(11, 8), layout="constrained")
    for column, (title, part) in enumerate(parts.items()):
        for row, calls in enumerate(CALLS):
            axes = places[row][column]
            for number, (name, mine) in enumerate(part.items()):
                for curve in mine:
                    label = name if curve is mine[0] else None
                    values = [scores[str(calls)] for _, scores in curve]
                    axes.plot([seconds for seconds, _ in curve], values, color=f"C{number}", label=label, linewidth=1.2)
            axes.set_title(f"{title}, {calls} step{'s' * (calls > 1)}")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("processor seconds of training")
            axes.set_ylabel("Frechet distance to the data")
            axes.grid(alpha=0.3)
    places[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
