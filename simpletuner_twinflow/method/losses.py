"""The targets and distances of TwinFlow, one function an equation.

Everything is computed in float32 at least, whatever the inputs are: RCGM divides a difference by delta_t = 0.01, which
in bf16 puts the target of a perfect prediction 0.70 off. float64 stays float64. Targets are detached.

Sources: TwinFlow (arXiv:2512.05150) and RCGM (Sun and Lin, "Any-step generation via N-th order recursive consistent
velocity field estimation"); each function names the one of the public code (inclusionAI/TwinFlow) that it agrees with.
"""

import math

import torch
from torch import Tensor

from simpletuner_twinflow.method.flow import at_least_float32, per_sample

BARRON_EPSILON = 1e-8  # added to scale^2; a hundredth of it at the published scale, so it is part of the formula


def rcgm_target(
    prediction: Tensor,
    velocity: Tensor,
    teacher_displacement: Tensor,
    t: Tensor,
    r: Tensor,
    *,
    delta_t: float,
    clamp: float,
) -> Tensor:
    """The target of F(x_t, t, r), by one finite difference along the teacher's path (`get_rcgm_target`).

    With `s = max(t - delta_t, r)`, I the teacher's displacement from s to r and `w = max((t - r) / delta_t, 1)`, the
    residual is `R = w F - I / delta_t - v` and the target `F - clamp(R, -k, k)`. At r = t nothing is divided by t - r:
    I is zero, w is one and R is F - v. The true average velocity is the fixed point.

    Args:
        prediction: the student's F(x_t, t, r), (B, ...).
        velocity: z - x, guided or not, (B, ...).
        teacher_displacement: `x_s - x_r` from `x_s = x_t - (t - s) velocity`, (B, ...).
        t: times in [0, 1], (B,).
        r: target times in [0, t], (B,).
        delta_t: length of the finite difference, as a share of the path.
        clamp: k, the largest distance of an element of the target from the prediction.
    """
    prediction, velocity = at_least_float32(prediction), at_least_float32(velocity)
    span = per_sample(at_least_float32(t) - at_least_float32(r), like=prediction)
    stretch = (span / delta_t).clamp(min=1)
    residual = stretch * prediction - at_least_float32(teacher_displacement) / delta_t - velocity
    return (prediction - residual.clamp(-clamp, clamp)).detach()


def rectify_target(prediction: Tensor, velocity_difference: Tensor, *, clamp: float = 1.0) -> Tensor:
    """The target of a one-step prediction that moves its samples towards real ones (L_rectify, `dist_match`).

    The target is `F1 - clamp(g, -k, k)` with `g = F(x_t, -t, -t) - F(x_t, t, t)` on noised *generated* samples: the
    twin's velocity minus the real one, proportional to the difference of the two scores. Where they agree, g is 0.

    Args:
        prediction: the student's one-step F1, (B, ...).
        velocity_difference: g, (B, ...).
        clamp: k, the largest distance of an element of the target from the prediction.
    """
    return (at_least_float32(prediction) - at_least_float32(velocity_difference).clamp(-clamp, clamp)).detach()


def squared_error(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean squared error of each sample, each element's weighted if asked for: (B, ...) and (B, ...) to (B,)."""
    error = (at_least_float32(prediction) - at_least_float32(target)).square()
    return (error if weights is None else error * weights).flatten(1).mean(dim=1)


def barron(
    prediction: Tensor, target: Tensor, weights: Tensor | None = None, *, alpha: float = 1.0, scale: float = 1e-3
) -> Tensor:
    """The squared error of each sample, reweighted after Barron's general robust loss (`barron_reweighting_loss`).

    `mse ((mse / scale^2) / |alpha - 2| + 1)^((alpha - 2) / 2) / scale`, the weight detached: large errors count
    less than their square. (B, ...) and (B, ...) to (B,). alpha = 2 is the squared error over the scale.
    """
    error = squared_error(prediction, target, weights)
    if alpha == 2:
        return error / scale
    ratio = error.detach() / (scale**2 + BARRON_EPSILON)
    weight = (ratio / abs(alpha - 2) + 1) ** ((alpha - 2) / 2)
    return error * weight / scale


def time_weight(t: Tensor, r: Tensor) -> Tensor:
    """The published weight of a real row, `tan((1 - (t - r)) pi / 2.5) + 1`, (B,): 4.08 at r = t, 1 at (1, 0)."""
    span = at_least_float32(t) - at_least_float32(r)
    return torch.tan((1 - span) * (math.pi / 2.5)) + 1
