"""The page: one HTML file that needs nothing else."""

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simpletuner_twinflow.comparison import charts
from simpletuner_twinflow.comparison.differences import differences
from simpletuner_twinflow.comparison.facts import costs, facts, quality_missing
from simpletuner_twinflow.comparison.pictures import MAX_LABELS, as_data, labels, opened, side_by_side
from simpletuner_twinflow.comparison.run import FIGURES, Picture, Run

AXES = {"step": "against steps", "time": "against time of training"}


class Image(NamedTuple):
    """A picture in the page, or why there is none."""

    data: str = ""
    said: str = ""
    width: int = 0


def page(runs: Sequence[Run]) -> str:
    """The whole page as HTML. Args: runs: at least one."""
    environment = Environment(
        loader=PackageLoader("simpletuner_twinflow.comparison"),
        autoescape=True,  # names, prompts and values come out of files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        runs=[{"run": run, "colour": charts.colour_of(number)} for number, run in enumerate(runs)],
        facts=facts(runs),
        costs=costs(runs),
        quality=_quality(runs),
        missing=[(run.name, said) for run in runs if (said := quality_missing(run))],
        groups=_pictures(runs),
        left_out=max(0, len(labels(runs)) - MAX_LABELS),
        differences=differences(runs),
        losses=[_drawn(chart, f"loss{number}") for number, chart in enumerate(charts.loss_charts(runs))],
        version=version("simpletuner-twinflow"),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _quality(runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = []
    for figure in charts.shown_figures(runs):
        rows = [
            (said, [_drawn(chart, f"{figure}-{axis}{number}") for number, chart in enumerate(made)])
            for axis, said in AXES.items()
            if (made := charts.quality_charts(runs, figure, axis))
        ]
        found.append({"title": FIGURES[figure], "rows": rows})
    return found


def _drawn(chart: charts.Chart, name: str) -> tuple[str, Markup]:
    return chart.title, Markup(charts.as_svg(chart, name))


def _pictures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [
        {"title": group.title, "rows": [(row.label, [_image(one) for one in row.pictures]) for row in group.rows]}
        for group in side_by_side(runs)
    ]


def _image(picture: Picture | None) -> Image:
    if picture is None:
        return Image(said="none")
    image = opened(picture)
    if image is None:
        return Image(said=f"unreadable: {picture.path.name}")
    return Image(as_data(image), f"step {picture.step:,}", image.width)
