"""The runs' pictures side by side, small enough to stand in a page."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from simpletuner_twinflow.comparison.quality_files import SHEET_LABEL
from simpletuner_twinflow.comparison.run import Picture, Run

MAX_LABELS = 24  # rows of pictures
MAX_SIDE, MAX_SHEET_SIDE = 640, 1400  # pixels
SMALL = 256  # up to which a picture is kept to the bit


class Row(NamedTuple):
    """Pictures of one label, a place for each run; None where the run has none."""

    label: str
    pictures: list[Picture | None]


class Group(NamedTuple):
    """Rows under one headline."""

    title: str
    rows: list[Row]


def side_by_side(runs: Sequence[Run]) -> list[Group]:
    """At the latest step at which all runs that have a label drew it, and, where that is another, at each one's end."""
    together, at_end = [], []
    for label in labels(runs)[:MAX_LABELS]:
        drawn = [{picture.step: picture for picture in run.pictures if picture.label == label} for run in runs]
        have = [steps for steps in drawn if steps]
        common = max(set.intersection(*map(set, have)), default=None)
        ends = [steps[max(steps)] if steps else None for steps in drawn]
        if common is not None and len(have) > 1:
            together.append((common, Row(label, [steps.get(common) for steps in drawn])))
        if len(have) == 1 or any(end is not None and end.step != common for end in ends):
            at_end.append(Row(label, ends))
    steps = sorted({step for step, _ in together}, reverse=True)
    groups = [
        Group(f"At step {step:,}, the latest that all have", [row for own, row in together if own == step])
        for step in steps
    ]
    return groups + ([Group("At the end of each run", at_end)] if at_end else [])


def labels(runs: Sequence[Run]) -> list[str]:
    """Of all pictures, contact sheets first."""
    found = dict.fromkeys(picture.label for run in runs for picture in run.pictures)
    return sorted(found, key=lambda label: label != SHEET_LABEL)


def opened(picture: Picture) -> Image.Image | None:
    """The picture at a size for the page, or None if it cannot be read."""
    side = MAX_SHEET_SIDE if picture.label == SHEET_LABEL else MAX_SIDE
    try:
        with Image.open(picture.path) as image:
            shown = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # all that Pillow says of a broken file
        return None
    shown.thumbnail((side, side))
    return shown


def as_data(image: Image.Image) -> str:
    """As the address of an `<img>`."""
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=max(image.size) <= SMALL, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
