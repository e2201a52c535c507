"""Fine-tune a tiny SD3 with the real host in ways that differ by config alone; compare their pictures in few steps.

python -m benchmarks.sd3 [--seeds 3] [--steps 200] [--output output/benchmarks/sd3]; a run that is done is not repeated.
"""

import argparse
import os
import statistics
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.sd3.problems import Scores, digits_judge
from benchmarks.sd3.tables import FEW_STEPS, GUIDANCE, PARTS, SHAPES_TABLE, Table, guided_pictures, knowing_base
from benchmarks.sd3.ways import Bench
from testbed.trainer import ROOT, demo_config

CHOICES = (FEW_STEPS, SHAPES_TABLE, PARTS, GUIDANCE)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sd3", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds, from 1 up")
    parser.add_argument("--steps", type=int, default=demo_config()["max_train_steps"])
    parser.add_argument("--samples", type=int, default=1000, help="pictures drawn, a multiple of 20")
    parser.add_argument("--tables", nargs="*", choices=[table.title for table in CHOICES], help="default: all")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="runs of the host at a time")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/sd3")
    arguments = parser.parse_args()
    console, folder = Console(), arguments.output.resolve()
    chosen = [table for table in CHOICES if table.title in (arguments.tables or [table.title])]
    bases, judges = {}, {}
    for table in chosen:
        if not (folder / table.problem.images).exists():
            table.problem.write(folder / table.problem.images)
        bases[table.title], judges[table.title] = table.problem.base, table.problem.judge()
        if table is GUIDANCE:
            bases[table.title] = knowing = knowing_base(folder, console)
            target = guided_pictures(folder, knowing, arguments.samples)
            judges[table.title] = digits_judge(target)
    scores: dict[str, list[dict[str, Scores]]] = {table.title: [] for table in CHOICES}
    for seed in range(1, arguments.seeds + 1):
        for table in chosen:
            console.print(f"{table.title}, seed {seed}")
            base, judge = bases[table.title], judges[table.title]
            bench = Bench(table_folder(folder, table, seed), table.problem, base, judge, table.calls, arguments.samples)
            ways = table.ways(base, seed, table.longer * arguments.steps)
            scores[table.title].append(bench.scores(ways, arguments.at_once, console))
        said = {"seeds": seed, "samples": arguments.samples}
        parts = []
        for table in chosen:
            note = table.note.format(steps=table.longer * arguments.steps, **said)
            parts.append(f"### {table.title}\n\n{rows(table, scores[table.title])}{note}")
        text = "\n".join(parts)
        (folder / "sd3.md").write_text(text, encoding="utf-8")
    console.print(Markdown(text))
    console.print(f"tables {folder / 'sd3.md'}", soft_wrap=True)


def table_folder(folder: Path, table: Table, seed: int) -> Path:
    """Where a table's runs with that seed live, the images among them."""
    place = folder / f"seed-{seed}" / table.title.lower().replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    images = table.problem.images
    if not (place / images).exists():
        (place / images).symlink_to(folder / images)
    return place


def rows(table: Table, scores: list[dict[str, Scores]]) -> str:
    """A row a way to train, as Markdown; a list item a seed."""
    head = [f"{title}, {_steps(calls)}" for title in table.columns.values() for calls in table.calls]
    once, title = table.beside
    head = ["", *head, title]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in scores[0]:
        kinds = [f"{kind} {calls}" for kind in table.columns for calls in table.calls]
        cells = [_spread([score[name][kind] for score in scores], 1) for kind in kinds]
        cells.append(_spread([score[name][once] for score in scores], 2))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _steps(calls: int) -> str:
    return f"{calls} step{'s' * (calls > 1)}"


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
