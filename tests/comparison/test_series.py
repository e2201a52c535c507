"""A log with pauses, lost steps and repeated ones becomes one curve."""

import math

import numpy as np

from simpletuner_twinflow.comparison.series import Log, Series, thinned


def logged(log: Log, name: str = "loss") -> list[tuple[int, float, float]]:
    series = log.series()[name]
    return list(zip(series.steps.tolist(), series.seconds.tolist(), series.values.tolist(), strict=True))


def test_time_begins_before_the_first_step():
    log = Log()
    for step, clock in ((1, 105.0), (2, 106.0)):
        log.add(step, clock, {"loss": float(step)}, took=5.0 if step == 1 else 1.0)
    assert logged(log) == [(1, 5.0, 1.0), (2, 6.0, 2.0)]


def test_later_of_repeated_steps_wins_and_neither_pause_nor_lost_steps_count():
    log = Log()
    for step in range(1, 7):  # 5 and 6 are lost
        log.add(step, 100.0 + step, {"loss": 1.0}, took=1.0)
    for step in range(5, 9):
        log.add(step, 9000.0 + step, {"loss": 2.0}, took=1.0)
    assert logged(log) == [(step, float(step), 1.0 if step < 5 else 2.0) for step in range(1, 9)]
    assert [*log.repeated()] == [(5, 6)]
    assert log.processes == 2


def test_a_resume_that_was_killed_earlier_than_the_first_process_gives_up_what_came_after():
    log = Log()
    for step in range(1, 9):
        log.add(step, float(step), {"loss": 1.0}, took=1.0)
    for step in (4, 5):
        log.add(step, 100.0 + step, {"loss": 2.0}, took=1.0)
    assert [step for step, *_ in logged(log)] == [1, 2, 3, 4, 5]


def test_a_resume_at_the_very_next_step_is_told_by_begin():
    log = Log()
    log.add(1, 10.0, {"loss": 1.0}, took=1.0)
    log.begin()
    log.add(2, 5000.0, {"loss": 2.0}, took=1.0)
    assert logged(log) == [(1, 1.0, 1.0), (2, 2.0, 2.0)]


def test_what_is_logged_late_at_an_earlier_step_is_no_resume():
    log = Log()
    for step in (1, 2, 3):
        log.add(step, float(step), {"loss": 1.0}, took=1.0)
    log.add(2, 3.5, {"picture": 1.0})
    log.add(4, 4.0, {"loss": 1.0}, took=1.0)
    assert log.processes == 1
    assert [step for step, *_ in logged(log)] == [1, 2, 3, 4]


def test_what_is_not_compared_does_not_start_the_clock():
    log = Log()
    log.add(0, 100.0, {})  # what the machine does, before the base is drawn
    log.add(1, 5000.0, {"loss": 1.0}, took=2.0)
    assert logged(log) == [(1, 2.0, 1.0)]


def test_unknown_clocks_leave_the_steps():
    log = Log()
    log.add(1, math.nan, {"loss": 1.0}, took=1.0)
    log.add(2, math.nan, {"loss": 1.0}, took=1.0)
    series = log.series()["loss"]
    assert series.steps.tolist() == [1, 2]
    assert np.isnan(series.seconds).all()


def test_thinning_keeps_the_extremes_and_leaves_out_what_is_not_finite():
    steps = np.arange(1, 100_001)
    values = np.zeros(100_000)
    values[777], values[50_000], values[3] = 9.0, -9.0, np.nan
    mean, least, largest = thinned(Series(steps, steps.astype(float), values), 300)
    assert len(mean) == len(least) == len(largest) == 300
    assert (largest.values.max(), least.values.min()) == (9.0, -9.0)
    assert np.isfinite(mean.values).all()
    short, *_ = thinned(Series(steps[:10], steps[:10].astype(float), values[:10]), 300)
    assert short.steps.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
