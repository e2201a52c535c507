"""What the plugin costs where TwinFlow is off: processor time of a plain step, and of the interpreter's start.

python -m benchmarks.cost.off [--repeats 5]; whole commands, the two sides in turn: the plugin installed with its flag
absent, and the same environment with SIMPLETUNER_TWINFLOW_DISABLED=1. Ten minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.cost.watch import FILE
from testbed.digits import write_digits
from testbed.trainer import ROOT, cpu_environment, demo_config, without_twinflow, write_run

SIDES = {"flag absent": {}, "plugin disabled": {"SIMPLETUNER_TWINFLOW_DISABLED": "1"}}
STEPS, IDLE = 40, 5
STARTS = 20  # starts of the interpreter in a repeat


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost.off", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/cost-off")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    write_digits(folder / "digits", limit=64)
    compare("a plain step, ms", lambda side: 1e3 * _step(folder, side), arguments.repeats)
    compare("start of the interpreter, ms", lambda side: 1e3 * _start(side), arguments.repeats)


def compare(title: str, measure: Callable[[str], float], repeats: int) -> None:
    """Measure both sides in turn, and print their medians and the ratios of each repeat."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in [*SIDES][:: 1 if repeat % 2 else -1]:
            found[side].append(measure(side))
    ratios = [one / other for one, other in zip(*found.values(), strict=True)]
    medians = ", ".join(f"{side} {statistics.median(values):.1f}" for side, values in found.items())
    print(f"{title}: {medians}; ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def _environment(side: str) -> dict[str, str]:
    return dict(os.environ) | cpu_environment() | SIDES[side]


def _step(folder: Path, side: str) -> float:
    """Processor seconds of a step, in a run of the host's own command."""
    run = folder / side.replace(" ", "-")
    config = without_twinflow(demo_config(max_train_steps=STEPS + IDLE, checkpointing_steps=1000, report_to="none"))
    write_run(run, config | {"validation_disable": True, "torch_num_threads": 1}, folder / "digits")
    (times := run / "times.txt").unlink(missing_ok=True)
    code = "from benchmarks.cost.watch import watch; watch(); import runpy; runpy.run_path(TRAIN, run_name='__main__')"
    train = Path(sys.prefix).glob("lib/python*/site-packages/simpletuner/train.py")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "testbed/cpu")])
    environment = _environment(side) | {FILE: str(times), "PYTHONPATH": paths}
    with (run / "log.txt").open("wb") as log:
        command = [sys.executable, "-c", code.replace("TRAIN", repr(str(next(train))))]
        subprocess.run(command, cwd=run, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    moments = [float(line) for line in times.read_text(encoding="utf-8").split()]
    return (moments[-1] - moments[IDLE - 1]) / (len(moments) - IDLE)


def _start(side: str) -> float:
    """Processor seconds of an interpreter that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(STARTS):
        subprocess.run([sys.executable, "-c", ""], env=_environment(side), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / STARTS


if __name__ == "__main__":
    main()
