"""Results on disk, the table of them and the picture."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.table import Table

from benchmarks.digits.guidance import summary
from benchmarks.digits.variants import VARIANTS

Record = dict[str, Any]
"""What `train.run` returns: one variant with one seed."""

REFERENCE = "full"  # whose time per step the others are given in
TICKS = (0.5, 1, 2, 5, 10, 20, 40)  # of the picture's logarithmic axis
GROWTH = ("guided_1", "guided_2", "guidance", "guidance_dropout")  # of the picture of the learnt scale
POINT_SHIFT = 0.12  # between the two points of a variant, in rows

_COLUMNS: dict[str, tuple[Callable[[Record], float], int]] = {
    "FD 1 step": (lambda record: record["ema"]["1"]["frechet"], 2),
    "FD 2 steps": (lambda record: record["ema"]["2"]["frechet"], 2),
    "FD 4 steps": (lambda record: record["ema"]["4"]["frechet"], 2),
    "FD 50 steps": (lambda record: record["ema"]["50"]["frechet"], 2),
    "FD 1 step, student": (lambda record: record["student"]["1"]["frechet"], 2),
    "class agreement": (lambda record: record["ema"]["1"]["agreement"], 3),
    "diversity": (lambda record: record["ema"]["1"]["diversity"], 3),
}

_TITLES = (*_COLUMNS, "passes", "time")

_GUIDED: dict[str, Callable[[Record], float]] = {
    **{f"to the base, {n}": (lambda record, n=n: record["base"][n]) for n in ("1", "2", "4", "50")},
    **{f"to the data, {n}": (lambda record, n=n: record["ema"][n]["frechet"]) for n in ("1", "2")},
}
_GUIDED_LEGEND = """
Guidance, compared with what it is aimed at: Frechet distance to 2,000 samples that the base itself draws at the same
guidance scale in 50 steps, by number of steps, beside that to the data. The learnt scale is the coefficient of the
base's B_c - B_u in the field at r = t, at t = 0.2 / 0.5 / 0.8; after the semicolon how far the empty prompt's field has
moved there, in |B_c - B_u|.
"""
_LEGEND = """
Scikit-learn's 8 x 8 digits, a class-conditional perceptron pre-trained on the time alone, {steps} steps of batch 128,
{seeds} training seed(s): mean ± standard deviation, or one seed where there is none. FD: Frechet distance to the real
digits in a classifier's features, 2,000 samples, lower is better. EMA weights if not said otherwise; 1, 2 and 4 steps
by the sampler of such a run (fresh noise between the steps of a model for 1 step, else Euler steps), 50 steps along
the ODE, r = t. Class agreement and diversity (real digits: 1) are those of
1 step. Passes: a row and step, in passes without gradient; one with gradient counts for three. Time: processor time of
a step against ours in full.
"""


def read_results(path: Path) -> list[Record]:
    """The results so far whose variant is still defined as it was."""
    if not path.exists():
        return []
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [record for record in records if _definition(record["variant"]) == record["definition"]]


def append_result(path: Path, record: Record) -> None:
    """Add one result."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def write_report(records: list[Record], steps: int, folder: Path) -> list[Path]:
    """Write the table and the pictures of the runs of this many steps; returns where they are."""
    runs = by_variant(records, steps)
    table, picture, growth = folder / "digits.md", folder / "digits.png", folder / "learnt_scale.png"
    table.write_text(markdown_table(runs, steps), encoding="utf-8")
    _draw(runs, picture)
    _draw_growth(runs, growth)
    return [table, picture, growth]


def by_variant(records: list[Record], steps: int) -> dict[str, list[Record]]:
    """The runs of this many steps, and the untrained one, in the order of VARIANTS."""
    found = defaultdict(list)
    for record in records:
        if record["steps"] == steps or VARIANTS[record["variant"]].recipe == "none":
            found[record["variant"]].append(record)
    return {name: found[name] for name in VARIANTS if name in found}


def markdown_table(runs: dict[str, list[Record]], steps: int) -> str:
    """The table, with what it shows below.

    Args:
        runs: of each variant, at least one.
        steps: of training, for the legend.
    """
    titles = ["variant", "", *_TITLES]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, cells in _cells(runs).items():
        lines.append(f"| `{name}` | {VARIANTS[name].text} | {' | '.join(cells)} |")
    seeds = max(len(mine) for mine in runs.values())
    return "\n".join(lines) + "\n" + _LEGEND.format(steps=f"{steps:,}", seeds=seeds) + "\n" + _guidance_table(runs)


def _guidance_table(runs: dict[str, list[Record]]) -> str:
    """The table of the variants with guidance."""
    guided = {name: mine for name, mine in runs.items() if VARIANTS[name].objective.scale > 1}
    titles = ["variant", "scale", *_GUIDED, "passes", "learnt scale; drift of the empty prompt"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, mine in guided.items():
        values = [_mean_and_spread([value(record) for record in mine], 2) for value in _GUIDED.values()]
        cells = [f"{VARIANTS[name].objective.scale:g}", *values, f"{_mean(mine, 'cost'):.2f}", summary(mine[0])]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + _GUIDED_LEGEND


def terminal_table(runs: dict[str, list[Record]]) -> Table:
    """The table without the words."""
    table = Table("variant", *_TITLES)
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    for name, cells in _cells(runs).items():
        table.add_row(name, *cells)
    return table


def _cells(runs: dict[str, list[Record]]) -> dict[str, list[str]]:
    """What stands under `_TITLES`, of each variant."""
    reference = _mean(runs[REFERENCE], "milliseconds") if REFERENCE in runs else None
    cells = {}
    for name, mine in runs.items():
        trained = VARIANTS[name].recipe != "none"
        cells[name] = [
            *(_mean_and_spread([value(record) for record in mine], digits) for value, digits in _COLUMNS.values()),
            f"{_mean(mine, 'cost'):.2f}" if trained else "",
            f"{_mean(mine, 'milliseconds') / reference:.2f}" if trained and reference else "",
        ]
    return cells


def _definition(name: str) -> str | None:
    return VARIANTS[name].definition if name in VARIANTS else None


def _mean(records: list[Record], key: str) -> float:
    return statistics.fmean(record[key] for record in records)


def _mean_and_spread(values: list[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _draw_growth(runs: dict[str, list[Record]], path: Path) -> None:
    """The learnt guidance scale over training, the mean over seeds and times; below, the drift of the empty prompt."""
    figure, rows = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for axes, kind in zip(rows, ("scale", "drift"), strict=True):
        for name in GROWTH:
            paths = [
                [statistics.fmean(at[kind] for at in learnt.values()) for _, learnt in record["growth"]]
                for record in runs.get(name, [])
            ]
            if paths:
                steps = [step for step, _ in runs[name][0]["growth"]]
                axes.plot(steps, [statistics.fmean(at) for at in zip(*paths, strict=True)], label=VARIANTS[name].text)
        axes.grid(alpha=0.3)
    rows[0].axhline(2, color="black", linestyle="dashed", label="asked for: 2")
    rows[0].set_ylabel("learnt guidance scale")
    rows[1].set_ylabel("drift of the empty prompt, in $|B_c - B_u|$")
    rows[1].set_xlabel("step")
    rows[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(runs: dict[str, list[Record]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.3 * len(runs)), layout="constrained")
    for shift, title in ((-POINT_SHIFT, "FD 1 step"), (POINT_SHIFT, "FD 2 steps")):
        value, _ = _COLUMNS[title]
        found = [[value(record) for record in mine] for mine in runs.values()]
        axes.errorbar(
            [statistics.fmean(values) for values in found],
            [place + shift for place in range(len(runs))],
            xerr=[statistics.stdev(values) if len(values) > 1 else 0 for values in found],
            fmt="o",
            label=title.removeprefix("FD "),
        )
    axes.set_yticks(range(len(runs)), [VARIANTS[name].text.strip("*") for name in runs])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("Frechet distance, EMA weights (lower is better)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
