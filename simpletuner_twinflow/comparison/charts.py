"""The curves, drawn once: as SVG that takes the page's colours and fonts, and as PNGs."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from simpletuner_twinflow.comparison.run import FIGURES, Measured, Run
from simpletuner_twinflow.comparison.series import thinned

COLOURS = ("#3b82f6", "#e8710a", "#1fa774", "#d6409f", "#8b5cf6", "#b7950b", "#0ea5b7", "#e5484d")
MARKERS = "osD^vPX*"
INK, GRID, GOOD = "#1b1f24", "#d5d9de", "#1fa774"  # in an SVG they stand for the page's own
ON_PAGE = {INK: "var(--ink)", GRID: "var(--line)"}
POINTS = 300  # of a curve of losses; those of quality are all drawn
SAME = 3.0  # standard errors within which the samples cannot be told from the data
SIZE = (4.3, 2.7)  # inches
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Chart(NamedTuple):
    """One chart."""

    title: str
    draw: Callable[[Any], None]
    """Given the axes."""


def quality_charts(runs: Sequence[Run], figure: str, axis: str) -> list[Chart]:
    """A chart for each number of drawing steps, a line in it for each run.

    Args:
        runs: of which some have the figure.
        figure: a key of FIGURES.
        axis: "step", or "time" of training.
    """
    counts = sorted({key.steps for run in runs for key in run.quality if key.who != "base" and key.figure == figure})

    def chart(count: int) -> Chart:
        def draw(axes: Any) -> None:
            _frame(axes, runs, axis)
            for number, run in enumerate(runs):
                _quality_lines(axes, run, number, figure, count, _unit(runs) if axis == "time" else None)
            axes.set_xlim(left=0)
            _scale(axes, figure)

        return Chart(f"drawn in {count} step{'s' * (count > 1)}", draw)

    return [chart(count) for count in counts]


def loss_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each loss that any run logged, over steps: the mean, and in a lighter tone the least and largest."""
    names = dict.fromkeys(name for run in runs for name in run.series if "loss" in name or name.startswith("twinflow/"))

    def chart(name: str) -> Chart:
        def draw(axes: Any) -> None:
            _frame(axes, runs, "step")
            for number, run in enumerate(runs):
                if (series := run.series.get(name)) is not None:
                    mean, least, largest = thinned(series, POINTS)
                    colour = colour_of(number)
                    axes.plot(mean.steps, mean.values, color=colour, linewidth=1.2)
                    if len(series) > POINTS:
                        axes.fill_between(least.steps, least.values, largest.values, color=colour, alpha=0.2, lw=0)
            axes.set_xlim(left=0)

        return Chart(name, draw)

    return [chart(name) for name in names]


def colour_of(number: int) -> str:
    """Of the run of this number, counted from 0."""
    return COLOURS[number % len(COLOURS)]


def as_svg(chart: Chart, name: str) -> str:
    """An `<svg>` to stand in a page. Args: name: before its ids, as letters that no other chart of the page has."""
    with _style():
        figure = Figure(figsize=SIZE, layout="constrained")
        chart.draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r'<svg role="img"\1', svg)
    for colour, variable in ON_PAGE.items():
        svg = svg.replace(colour, variable)
    return svg


def save_png(charts: Sequence[Sequence[Chart]], runs: Sequence[Run], title: str, path: Path) -> None:
    """A PNG of rows of charts, with a legend of the runs."""
    columns = max(map(len, charts))
    with _style():
        figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * len(charts) + 0.9), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        figure.suptitle(title, parse_math=False)
        grid = figure.subplots(len(charts), columns, squeeze=False)
        for row, column in product(range(len(charts)), range(columns)):
            axes = grid[row, column]
            if column >= len(charts[row]):
                axes.set_axis_off()
                continue
            axes.set_title(charts[row][column].title, fontsize=10, parse_math=False)
            charts[row][column].draw(axes)
        lines = [Line2D([], [], color=colour_of(n), marker=MARKERS[n % len(MARKERS)]) for n in range(len(runs))]
        # The space because a label that begins with "_" is left out of a legend.
        figure.legend(lines, [f" {run.name}" for run in runs], loc="outside lower center", ncols=min(4, len(runs)))
        figure.savefig(path)


@contextmanager
def _style() -> Iterator[None]:
    settings: Any = {
        "svg.fonttype": "none",  # text stays text, in the page's fonts
        "svg.hashsalt": "simpletuner-twinflow",
        "text.parse_math": False,  # a "$" in a name is a "$"
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
    }
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK)
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A PNG shows a box for a letter that matplotlib's own font lacks; the page has the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _frame(axes: Any, runs: Sequence[Run], axis: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_xlabel("step" if axis == "step" else f"time of training, {_unit(runs)}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis == "step"))
    if axis == "step":
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1e4 else f"{step:g}")
        )


def _unit(runs: Sequence[Run]) -> str:
    longest = max((run.seconds or 0.0 for run in runs), default=0.0)
    return "s" if longest < 300 else "min" if longest < 3 * 3600 else "h"


def _quality_lines(axes: Any, run: Run, number: int, figure: str, count: int, unit: str | None) -> None:
    colour, marker = colour_of(number), MARKERS[number % len(MARKERS)]
    for who in ("student", "ema"):
        series = run.quality.get(Measured(who, count, figure))
        if series is None:
            continue
        main = who == run.who
        axes.plot(
            series.steps if unit is None else series.seconds / UNITS[unit],
            np.where(np.isfinite(series.values), series.values, np.nan),
            color=colour,
            marker=marker if main else None,
            markersize=4,
            linewidth=1.6 if main else 0.9,
            linestyle="-" if main else ":",
            alpha=1 if main else 0.8,
        )
    for key, series in run.quality.items():
        known = series.values[np.isfinite(series.values)]
        if key.who == "base" and key.figure == figure and len(known):
            axes.axhline(known[-1], color=colour, linestyle="--", linewidth=1)
            place = {"xy": (1, known[-1]), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(f"base, {key.steps} step{'s' * (key.steps > 1)}", **place, fontsize=7, color=colour)


def _scale(axes: Any, figure: str) -> None:
    if figure == "diversity":
        axes.axhline(1, color=GOOD, linewidth=1)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=max(1.1, axes.get_ylim()[1]))
        return
    low, high = axes.get_ylim()
    low, high = min(low, -1.5), max(1.3 * high, 2 * SAME)
    axes.set_yscale("symlog", linthresh=SAME)
    axes.axhspan(low, SAME, color=GOOD, alpha=0.12, linewidth=0)
    axes.set_ylim(low, high)
    decades = range(math.ceil(math.log10(high)) + 1)
    ticks = [part * 10.0**power for power in decades for part in (1, 3)]
    ticks = [0.0, *ticks, *(-at for at in ticks)]
    axes.yaxis.set_major_locator(FixedLocator([at for at in ticks if low <= at <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def shown_figures(runs: Sequence[Run]) -> list[str]:
    """The figures of FIGURES that any run has."""
    have = {key.figure for run in runs for key in run.quality if key.who != "base"}
    return [figure for figure in FIGURES if figure in have]
