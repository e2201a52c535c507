"""The experimental trajectory chart; the only file that makes wandb objects."""

import random
from collections.abc import Sequence

import torch
import wandb

from simpletuner_twinflow.host.training.meter import Positions

TITLE = "TwinFlow trajectory: sigma, target time, time sign (experimental/theory unverified)"
COLUMNS = ("step", "role", "sigma", "target_time", "time_sign")
CHART_KEY = "twinflow/trajectory"
MAX_ROWS = 48  # of one chart; with MAX_CHARTS below 2 MB of tables however long the run


def trajectory_chart(window: Sequence[Positions], *, step: int) -> dict[str, object]:
    """The chart of one optimizer step's rows, of MAX_ROWS sampled ones if there are more, as W&B values.

    Args:
        window: where each micro-batch's rows were on the path.
        step: the optimizer step; it also seeds the sample.
    """
    points = [
        [step, str(role), round(t, 4), round(r, 4), int(sign)]
        for rows in window
        for role, t, r, sign in zip(rows.roles, *torch.stack([rows.t, rows.r, rows.sign]).tolist(), strict=True)
    ]
    if len(points) > MAX_ROWS:
        points = random.Random(step).sample(points, MAX_ROWS)
    table = wandb.Table(columns=list(COLUMNS), data=points)
    return {CHART_KEY: wandb.plot.scatter(table, "sigma", "target_time", title=TITLE)}
