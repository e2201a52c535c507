"""What guidance is aimed at: the base's own samples at the scale, and its field at r = t."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits.network import TwinNet
from benchmarks.digits.setup import NO_LABEL, Net, VelocityField, base_model, euler, load_data
from simpletuner_twinflow.method.flow import interpolate
from testbed.judge import Judge

BASE_SEED = 5  # of the base's samples; another than that of the samples compared with them
TIMES, ROWS = (0.2, 0.5, 0.8), 1000  # at which the fields are compared


def guided_field(base: Net, scale: float) -> VelocityField:
    """The base's velocity with classifier-free guidance, `u + scale (c - u)`."""

    @torch.no_grad()
    def field(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        empty = base(x, t, torch.full_like(y, NO_LABEL))
        return empty + scale * (base(x, t, y) - empty)

    return field


@cache
def base_samples(path: Path, scale: float, steps: int) -> Tensor:
    """2,000 samples of the base at `path` with guidance, in this many steps of its own."""
    return euler(guided_field(base_model(path), scale), steps, seed=BASE_SEED)[0]


def distances_to_base(
    examiner: Judge, samples: dict[int, Tensor], path: Path, scale: float, steps: int
) -> dict[str, float]:
    """Frechet distance of samples, by number of calls, to the base's own with guidance."""
    own = base_samples(path, scale, steps)
    return {str(calls): examiner.between(own, x) for calls, x in samples.items()}


@torch.no_grad()
def learnt_scale(net: TwinNet, base: Net) -> dict[str, dict[str, float]]:
    """Of the field at r = t on noised digits, by time: the guidance scale, and how far the empty prompt's has moved.

    The scale is the coefficient of B_c - B_u in F_c - B_u; the drift |F_u - B_u| is given in |B_c - B_u|.
    """
    digits, labels = load_data()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(digits), (ROWS,), generator=generator)
    x, y = digits[rows], labels[rows]
    z, empty = torch.randn(x.shape, generator=generator), torch.full_like(y, NO_LABEL)
    found = {}
    for time in TIMES:
        t = torch.full((ROWS,), time)
        x_t = interpolate(x, z, t).x_t
        unprompted = base(x_t, t, empty)
        direction = base(x_t, t, y) - unprompted
        moved = net.velocity_field(x_t, t, y) - unprompted
        drift = net.velocity_field(x_t, t, empty) - unprompted
        found[f"{time:g}"] = {
            "scale": float((moved * direction).sum() / direction.square().sum()),
            "drift": float(drift.norm() / direction.norm()),
        }
    return found


def summary(record: dict[str, Any]) -> str:
    """The learnt scale and the drift over time, as a cell of the table."""
    learnt = record["learnt"].values()
    return " / ".join(f"{at['scale']:.2f}" for at in learnt) + "; " + " / ".join(f"{at['drift']:.1f}" for at in learnt)
