"""The experimental trajectory chart: what is in it, and how large a run's tables get."""

import json

import pytest
import torch

from simpletuner_twinflow.host.training.logging import chart_is_due
from simpletuner_twinflow.host.training.wandb_chart import CHART_KEY, COLUMNS, MAX_ROWS, TITLE, trajectory_chart
from simpletuner_twinflow.method.batch import RoleBatch
from simpletuner_twinflow.method.roles import Role


def rows(count: int) -> RoleBatch:
    t = torch.linspace(0.1, 0.987654321, count)
    ends = torch.zeros(count, 1)
    return RoleBatch(
        tuple([Role.any_step, Role.twin][i % 2] for i in range(count)),
        x=ends, z=ends, t=t, r=t / 3, sign=torch.tensor([1.0, -1.0]).repeat(count)[:count], x_t=ends, velocity=ends,
    )  # fmt: skip


def table_of(chart):
    return chart[CHART_KEY].table


def test_chart_has_a_point_per_row_with_its_role_times_and_sign():
    table = table_of(trajectory_chart([rows(2), rows(1)], step=7))
    assert table.columns == list(COLUMNS)
    assert table.data == [
        [7, "any_step", 0.1, 0.0333, 1],
        [7, "twin", 0.9877, 0.3292, -1],
        [7, "any_step", 0.1, 0.0333, 1],
    ]


def test_chart_is_titled_as_experimental():
    assert "experimental/theory unverified" in TITLE
    assert trajectory_chart([rows(1)], step=1)[CHART_KEY].spec.string_fields["title"] == TITLE


def test_large_window_is_sampled():
    table = table_of(trajectory_chart([rows(500)], step=1))
    assert len(table.data) == MAX_ROWS
    assert len({tuple(row) for row in table.data}) == MAX_ROWS


@pytest.mark.parametrize("interval", [1, 7, 500, 100_000])
def test_run_of_100000_steps_logs_under_2_mb_of_table(interval):
    due = [step for step in range(1, 100_001) if chart_is_due(step, interval, max_steps=100_000)]
    table = table_of(trajectory_chart([rows(500)], step=100_000))
    size = len(json.dumps({"columns": table.columns, "data": table.data}))
    assert size * len(due) < 2_000_000
