"""The path between data and noise, and how an average velocity moves a sample along it.

The convention everywhere (the host's, SD3's and TwinFlow's): data `x`, noise `z`, time `t` in [0, 1] with t = 1
noise, `x_t = t z + (1 - t) x`, velocity `v = z - x`. The network is an average velocity
`F(x_t, t, r)` from t down to a target time r, 0 <= r <= t: `x_r = x_t - (t - r) F`. At r = t it is the velocity.

Times are tensors of shape (B,), one for each sample; data has any shape (B, ...).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError

AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(x, t, r)`: x (B, ...), t and r (B,) with r <= t; returns F of x's shape."""


class FlowSample(NamedTuple):
    """A point on the path."""

    x_t: Tensor  # (B, ...)
    velocity: Tensor  # (B, ...), z - x


class Endpoints(NamedTuple):
    """The two ends of the path that an average velocity predicts."""

    x_hat: Tensor  # (B, ...), data
    z_hat: Tensor  # (B, ...), noise


class Rollout(NamedTuple):
    """The result of a rollout from s down to r."""

    displacement: Tensor  # (B, ...), x_s - x_r
    x_r: Tensor  # (B, ...)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values of shape (B,) viewed as (B, 1, ..., 1), to broadcast over the samples of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x: Tensor, z: Tensor, t: Tensor) -> FlowSample:
    """The point at time t on the path from data to noise, and the velocity there.

    Args:
        x: data, (B, ...).
        z: noise, (B, ...).
        t: times in [0, 1], (B,).
    """
    t = per_sample(t, like=x)
    return FlowSample(x_t=(1 - t) * x + t * z, velocity=z - x)


def endpoints(x_t: Tensor, average_velocity: Tensor, t: Tensor) -> Endpoints:
    """The data and the noise that F predicts at x_t: `x_hat = x_t - t F`, `z_hat = x_t + (1 - t) F`.

    Args:
        x_t: points on the path, (B, ...).
        average_velocity: F at those points, (B, ...).
        t: times in [0, 1], (B,) or (1,) for one time shared by all samples.
    """
    t = per_sample(t, like=x_t)
    return Endpoints(x_hat=x_t - t * average_velocity, z_hat=x_t + (1 - t) * average_velocity)


def rollout(predict: AverageVelocity, x_s: Tensor, s: Tensor, r: Tensor, steps: int) -> Rollout:
    """Go from time s down to time r in equal jumps of F (RCGM's N-th order estimate; `multi_fwd` in the public code).

    Args:
        predict: the average velocity F.
        x_s: points at time s, (B, ...).
        s: start times in [0, 1], (B,).
        r: target times in [0, s], (B,).
        steps: the number N of jumps, at least 1.

    Returns:
        Both in float32 at least; the displacement is the sum of the jumps, more exact than `x_s - x_r`.

    Raises:
        TwinFlowError: if `steps` is below 1.
    """
    if steps < 1:
        raise TwinFlowError(f"A rollout takes at least one step; got {steps}.")
    x = at_least_float32(x_s)
    displacement = torch.zeros_like(x)
    now = s
    for step in range(1, steps + 1):
        share = step / steps
        # A weighted mean, so that the last time is r exactly; the minimum undoes a rounding upwards.
        following = torch.minimum(s * (1 - share) + r * share, now)
        jump = per_sample(now - following, like=x) * predict(x, now, following)
        displacement, x, now = displacement + jump, x - jump, following
    return Rollout(displacement=displacement, x_r=x)
