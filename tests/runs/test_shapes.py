"""Batches of every size and shape that the host makes of small image sets of mixed aspect ratios."""

import math

import pytest


@pytest.mark.host_runs("shapes")
def test_every_batch_size_and_aspect_ratio_trains(runs):
    run = runs["shapes"].check()
    steps = run.of("step")
    assert len(steps) >= 6 * 2
    batches = {(step["shape"][0], *step["shape"][-2:]) for step in steps}
    assert len({batch[1:] for batch in batches}) == 2  # latents of square and of wide pictures
    assert {batch[0] for batch in batches} >= {2, 3}  # of the two sets
    for step in steps:
        assert len(step["roles"]) == step["shape"][0]
        assert math.isfinite(step["loss"])
        assert step["loss_is_repeatable"]
    assert all(math.isfinite(values["train_loss"]) for values in run.step_logs())
