"""Train and judge every variant with every seed, then write the table and the picture.

An interrupted run resumes: what `results.jsonl` has is not run again.
"""

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.digits.report import Record, append_result, by_variant, read_results, terminal_table, write_report
from benchmarks.digits.setup import BASE_STEPS, base_model, classifier
from benchmarks.digits.variants import VARIANTS
from benchmarks.digits.workers import Job, execute
from testbed.progress import Progress


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of each variant, from 0 up")
    parser.add_argument("--variants", type=_names, default=tuple(VARIANTS), help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    arguments = parser.parse_args()
    console, folder = Console(), arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"

    prepare(folder, console)
    done = {Job(record["variant"], record["seed"], record["steps"]) for record in read_results(results)}
    jobs = [job for job in plan(arguments.variants, arguments.seeds, arguments.steps) if job not in done]
    failures = train(jobs, arguments.jobs, folder, results, console)

    if records := read_results(results):
        written = write_report(records, arguments.steps, folder)
        console.print(terminal_table(by_variant(records, arguments.steps)))
        console.print("\n".join(map(str, written)), soft_wrap=True)
    if failures:
        raise SystemExit(f"{failures} runs failed; start again to repeat them.")


def plan(variants: tuple[str, ...], seeds: int, steps: int) -> list[Job]:
    """The runs, seed by seed so that an early look shows every variant; an untrained one is the same for all seeds."""
    return [
        Job(name, seed, steps if VARIANTS[name].recipe != "none" else 0)
        for seed in range(seeds)
        for name in variants
        if seed == 0 or VARIANTS[name].recipe != "none"
    ]


def prepare(folder: Path, console: Console) -> None:
    """Have the base model and the classifier ready before the workers look for them."""
    with Progress(console, "steps").shown() as progress:
        task = progress.add("training the base model", total=BASE_STEPS)
        base_model(folder / "base.pt", lambda step: progress.update(task, step))
        progress.update(task, BASE_STEPS)
    classifier(folder / "classifier.pt")


def train(jobs: list[Job], processes: int, folder: Path, results: Path, console: Console) -> int:
    """Make the runs, each result appended as it comes; returns how many failed."""
    failures = 0
    with Progress(console, "steps").shown() as progress:
        task = progress.add(f"{len(jobs)} runs", total=sum(job.steps for job in jobs))
        for job, outcome in execute(jobs, processes, folder, lambda made: progress.update(task, made)):
            if isinstance(outcome, Exception):
                failures += 1
                console.print(f"{job.variant}, seed {job.seed} [red]failed[/]: {outcome!r}", soft_wrap=True)
            else:
                append_result(results, outcome)
                console.print(_line(outcome), soft_wrap=True)
    return failures


def _line(record: Record) -> str:
    distances = ", ".join(f"{calls}: {score['frechet']:.2f}" for calls, score in record["ema"].items())
    return (
        f"{record['variant']}, seed {record['seed']}, FD by steps {distances}; {record['milliseconds']:.0f} ms a step"
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    return names


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted; start again to go on from here") from None
