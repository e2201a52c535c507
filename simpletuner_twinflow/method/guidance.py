"""Classifier-free guidance baked into the training targets, so that sampling needs none."""

import torch
from torch import Tensor

from simpletuner_twinflow.method.batch import Predict, PromptRows, RoleBatch, call, index
from simpletuner_twinflow.method.flow import at_least_float32, per_sample
from simpletuner_twinflow.method.settings import ObjectiveSettings


def guided_velocity(velocity: Tensor, conditional: Tensor, unconditional: Tensor, ratio: float) -> Tensor:
    """`v_c = v + ratio (F(x_t, t, t; c) - F(x_t, t, t; none))`, detached (`enhance_target` in the public code).

    Args:
        velocity: z - x, (B, ...).
        conditional: the teacher's velocity under the prompt, (B, ...).
        unconditional: the teacher's velocity under the empty prompt, (B, ...).
        ratio: rho; 0 leaves the velocity as it is.
    """
    difference = at_least_float32(conditional) - at_least_float32(unconditional)
    return (at_least_float32(velocity) + ratio * difference).detach()


@torch.no_grad()
def guided_velocities(rows: RoleBatch, real: tuple[int, ...], options: ObjectiveSettings, teacher: Predict) -> Tensor:
    """The velocities of all rows, (B, ...): guided on real rows whose time lies in `enhanced_range`, else z - x.

    Takes two passes over all real rows: leaving out those outside the range would mean waiting for the device.
    """
    at = index(real, rows.t)
    x_t, t = rows.x_t[at], rows.t[at]
    ones = torch.ones_like(t)
    conditional = call(teacher, x_t, t, t, ones, PromptRows(real))
    unconditional = call(teacher, x_t, t, t, ones, PromptRows(real, unconditional=True))
    low, high = options.enhanced_range
    within = per_sample((t >= low) & (t <= high), like=x_t)
    guided = guided_velocity(rows.velocity[at], conditional, unconditional, options.enhanced_ratio)
    return rows.velocity.index_copy(0, at, torch.where(within, guided, rows.velocity[at]).to(rows.velocity.dtype))
