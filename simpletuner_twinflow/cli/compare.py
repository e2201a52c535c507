"""`simpletuner-twinflow compare`: what runs left on disk, side by side on one page."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpletuner_twinflow.errors import TwinFlowError

if TYPE_CHECKING:
    from simpletuner_twinflow.comparison.run import Run

HELP = "put runs side by side on one page: few-step quality, pictures, configuration, losses, cost"
PAGE = "compare.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run's output folder, an offline W&B folder (wandb/offline-run-...), or a folder that holds either",
    )
    parser.add_argument("--output", type=Path, default=Path("twinflow-compare"), help="folder for the page and PNGs")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")


def run(arguments: argparse.Namespace) -> None:
    """Read, write the page and its PNGs, print the figures.

    Raises:
        TwinFlowError: All that is wrong with the paths, or what is missing to read or draw.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TwinFlowError(
            f"compare needs {error.name}, which SimpleTuner brings; without it: "
            "pip install 'simpletuner-twinflow[compare]'."
        ) from error
    # Here, so that `--help` and wrong arguments do not wait for numpy and matplotlib.
    from simpletuner_twinflow.comparison.page import page
    from simpletuner_twinflow.comparison.read import read_runs

    runs = read_runs(arguments.runs)
    path = arguments.output / PAGE
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(page(runs), encoding="utf-8")
        written = [path, *_write_pngs(runs, arguments.output)]
    except OSError as error:
        raise TwinFlowError(f"--output {arguments.output}: {error.strerror or error}.") from error
    print(
        json.dumps(_figures(runs, written), indent=1, ensure_ascii=False) if arguments.json else _table(runs, written)
    )


def _write_pngs(runs: "list[Run]", folder: Path) -> list[Path]:
    from PIL import Image

    from simpletuner_twinflow.comparison import charts
    from simpletuner_twinflow.comparison.pictures import opened, side_by_side
    from simpletuner_twinflow.comparison.run import FIGURES
    from simpletuner_twinflow.quality.contact_sheet import contact_sheet

    written = []
    for figure in charts.shown_figures(runs):
        rows = [charts.quality_charts(runs, figure, axis) for axis in ("step", "time")]
        charts.save_png(rows, runs, FIGURES[figure], path := folder / f"quality-{figure.replace('_', '-')}.png")
        written.append(path)
    if losses := charts.loss_charts(runs):
        rows = [losses[start : start + 3] for start in range(0, len(losses), 3)]
        charts.save_png(rows, runs, "Losses: not comparable across modes", path := folder / "losses.png")
        written.append(path)
    for number, group in enumerate(side_by_side(runs), start=1):
        empty = Image.new("RGB", (64, 64), "white")
        cells = [[(opened(one) if one else None) or empty for one in row.pictures] for row in group.rows]
        sheet = contact_sheet(cells, [row.label for row in group.rows], [run.name for run in runs])
        sheet.save(path := folder / f"pictures-{number}.png")
        written.append(path)
    return written


def _figures(runs: "list[Run]", written: list[Path]) -> dict[str, Any]:
    from simpletuner_twinflow.comparison.facts import seconds_per_step

    return {
        "page": str(written[0]),
        "pngs": [str(path) for path in written[1:]],
        "runs": [
            {
                "name": one.name,
                "paths": [str(path) for path in one.given],
                "mode": one.mode,
                "target_step_count": one.target_step_count,
                "last_step": one.last_step,
                "seconds": one.seconds,
                "seconds_per_step": seconds_per_step(one),
                "weights": one.who if one.quality else None,
                "best": {
                    steps: {
                        "figure": best.figure,
                        "value": best.value,
                        "step": best.step,
                        "seconds": best.seconds if math.isfinite(best.seconds) else None,
                        "base": best.base,
                        "to_data": best.to_data,
                        "base_to_data": best.base_to_data,
                    }
                    for steps, best in one.best().items()
                },
                "notes": one.notes,
                "sources": one.sources,
            }
            for one in runs
        ],
    }


def _table(runs: "list[Run]", written: list[Path]) -> str:
    from simpletuner_twinflow.comparison.facts import beside_base, duration, quality_missing

    counts = sorted({steps for one in runs for steps in one.best()})
    rows = [["run", "mode", "K", "steps", "time", *(f"best in {steps}" for steps in counts)]]
    for one in runs:
        best = one.best()
        time = "-" if one.seconds is None else duration(one.seconds)
        row = [one.name, one.mode, _or_dash(one.target_step_count), _or_dash(one.last_step), time]
        found = [best.get(steps) for steps in counts]
        rows.append(row + [f"{beside_base(at.value, at.base)} at {at.step}" if at else "-" for at in found])
        far = [at and at.to_data is not None and beside_base(at.to_data, at.base_to_data) for at in found]
        if any(far):
            rows.append(["", "to the data", "", "", "", *(said or "-" for said in far)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if counts:
        lines += [
            "best in N steps: least MMD to the data in standard errors, at a step of training; below 3 like the data.",
            "Where guidance is trained in: to the guided base, and below it that to the data at the same step.",
            "base: the base model in as many steps, at the guidance that is trained in; drawn in K steps alone.",
        ]
    lines += [f"{one.name}: few-step quality {missing}." for one in runs if (missing := quality_missing(one))]
    lines += [f"{one.name}: {note}" for one in runs for note in one.notes]
    lines.append(f"page  {written[0]}")
    return "\n".join(lines)


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
