"""The examples do what they say."""

import pytest
import torch

from examples.own_loop import draw, main


def test_own_loop_draws_the_ring_in_one_step_where_flow_matching_cannot():
    base, twinflow = main()
    points = draw(twinflow, 2000, steps=1)
    assert (points.norm(dim=1) - 1).abs().mean() < 0.2
    assert (draw(base, 2000, steps=1).norm(dim=1) - 1).abs().mean() > 0.5  # one step of it draws the mean of the data
    eighths = torch.histc(torch.atan2(points[:, 1], points[:, 0]), bins=8) / 2000
    assert eighths.tolist() == pytest.approx([1 / 8] * 8, abs=0.06)  # all of the ring, not a part of it
