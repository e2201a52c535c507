"""The curves."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from simpletuner_twinflow.comparison.charts import POINTS, as_svg, loss_charts, quality_charts, save_png, shown_figures
from simpletuner_twinflow.comparison.run import Measured, Run
from simpletuner_twinflow.comparison.series import Series

KEY = Measured("ema", 1, "mmd_in_errors")


def long_run(steps: int = 200_000, measures: int = 1000) -> Run:
    at = np.arange(1, steps + 1)
    points = np.linspace(1, steps, measures).astype(int)
    return Run(
        "long",
        [],
        {"train_loss": Series(at, at.astype(float), np.sin(at))},
        {KEY: Series(points, points.astype(float), np.linspace(30, 1, measures))},
    )


def test_losses_are_thinned_and_no_point_of_quality_is_lost():
    run = long_run()
    [loss], [quality] = loss_charts([run]), quality_charts([run], "mmd_in_errors", "step")
    assert len(as_svg(loss, "a")) < 200 * POINTS
    assert as_svg(quality, "b").count("<use") >= 1000  # a marker each


def test_svg_is_well_formed_takes_the_pages_colours_and_has_ids_of_its_own():
    [chart] = quality_charts([long_run(10, 10)], "mmd_in_errors", "time")
    svg = as_svg(chart, "mine")
    ET.fromstring(svg)
    assert "var(--ink)" in svg
    assert "#1b1f24" not in svg
    ids = set(re.findall(r'\sid="([^"]*)"', svg))
    assert all(one.startswith("mine-") for one in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= ids


def test_values_that_are_not_finite_break_nothing(tmp_path):
    values = np.array([math.nan, math.inf, -math.inf, math.nan])
    series = Series(np.arange(1, 5), np.full(4, math.nan), values)
    run = Run("nan", [], {"train_loss": series}, {KEY: series, Measured("base", 20, "mmd_in_errors"): series})
    rows = [quality_charts([run], "mmd_in_errors", axis) for axis in ("step", "time")]
    save_png([*rows, loss_charts([run])], [run], "title", tmp_path / "a.png")
    for [chart] in rows:
        ET.fromstring(as_svg(chart, "x"))


def test_names_of_any_kind_are_drawn_as_they_are(tmp_path):
    runs = [long_run(5, 5), long_run(5, 5), long_run(5, 5)]
    for run, name in zip(runs, ("_under $x_", "試験 <b>", "$\\frac{$"), strict=True):
        run.name = name
    save_png([quality_charts(runs, "mmd_in_errors", "step")], runs, "$\\bad", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 400


def test_the_bases_own_figures_make_no_chart():
    run = Run("x", [], quality={Measured("base", 20, "diversity"): Series.of({1: (1.0, 1.0)})})
    assert quality_charts([run], "diversity", "step") == []
    assert shown_figures([run]) == []
