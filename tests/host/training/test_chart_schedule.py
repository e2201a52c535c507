"""When the trajectory chart is due: the interval asked for, thinned to a bound."""

import pytest

from simpletuner_twinflow.host.training.chart_schedule import MAX_CHARTS, ChartSchedule


def due(interval, max_steps):
    schedule = ChartSchedule(interval, max_steps)
    return [step for step in range(1, max_steps + 1) if schedule.is_due(step)]


@pytest.mark.parametrize("interval", [1, 7, 500, 100_000])
@pytest.mark.parametrize("max_steps", [1, 399, 400, 401, 100_000])
def test_run_of_any_length_has_a_chart_and_no_more_than_the_bound(interval, max_steps):
    """The first step's is one more than the bound where that step is not one of the interval's."""
    charts = due(interval, max_steps)
    assert charts[0] == 1
    assert len(charts) <= MAX_CHARTS + 1


@pytest.mark.parametrize("interval", [7, 500])
def test_thinned_charts_are_at_multiples_of_the_interval_asked_for(interval):
    assert all(step % interval == 0 for step in due(interval, 100_000)[1:])


def test_interval_is_kept_where_it_is_long_enough():
    assert due(500, 10_000) == [1, *range(500, 10_001, 500)]


def test_interval_zero_means_no_chart():
    assert due(0, 100) == []
