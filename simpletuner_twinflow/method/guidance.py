"""Classifier-free guidance baked into the training targets, so that sampling needs none.

With the guidance scale w, `v + (w - 1) (B_c - B_u)` of a frozen base network B has one fixed point, which is the base's
own guided field where v's mean is B_c. The documented `v + rho (F_c - F_u)` takes both from the network that is
trained; its fixed point, scale 1 / (1 - rho), assumes that F_u stands still, which nothing sees to.
"""

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import Predict, PromptRows, RoleBatch, call, index
from simpletuner_twinflow.method.flow import at_least_float32, per_sample
from simpletuner_twinflow.method.settings import ObjectiveSettings


def guided_velocity(velocity: Tensor, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """`v + weight (F(x_t, t, t; c) - F(x_t, t, t; none))`, detached (`enhance_target` in the public code).

    Args:
        velocity: z - x, (B, ...).
        conditional: the reference's velocity under the prompt, (B, ...).
        unconditional: the reference's velocity under the empty prompt, (B, ...).
        weight: rho where the reference is the network being trained, w - 1 where it stands still; 0 leaves the
            velocity as it is.
    """
    difference = at_least_float32(conditional) - at_least_float32(unconditional)
    return (at_least_float32(velocity) + weight * difference).detach()


def reference(options: ObjectiveSettings, teacher: Predict, base: Predict | None) -> Predict:
    """The network whose two fields are guidance's.

    Raises:
        TwinFlowError: if it is not settled, or is the base and there is none.
    """
    if options.guidance_reference == "auto":
        raise TwinFlowError('guidance_reference is "auto": a training step needs "base" or "ema".')
    if options.guidance_reference == "ema":
        return teacher
    if base is None:
        raise TwinFlowError(
            'guidance_reference is "base" and no base was given: pass the frozen network as base, or use "ema".'
        )
    return base


@torch.no_grad()
def guided(
    velocity: Tensor,
    x_t: Tensor,
    t: Tensor,
    prompts: tuple[int, ...],
    *,
    weight: float,
    options: ObjectiveSettings,
    reference: Predict,
) -> Tensor:
    """The velocities at x_t, (n, ...), guided where t, (n,), lies in `enhanced_range`, else as they are.

    Takes two passes over all rows: leaving out those outside the range would mean waiting for the device.
    """
    ones = torch.ones_like(t)
    conditional = call(reference, x_t, t, t, ones, PromptRows(prompts))
    unconditional = call(reference, x_t, t, t, ones, PromptRows(prompts, unconditional=True))
    low, high = options.enhanced_range
    within = per_sample((t >= low) & (t <= high), like=x_t)
    return torch.where(within, guided_velocity(velocity, conditional, unconditional, weight), velocity)


def guided_rows(real: tuple[int, ...], options: ObjectiveSettings) -> tuple[int, ...]:
    """The real rows whose velocities guidance changes: all by `ema`, every second one by `base`.

    The targets are linear in the base's difference, so half of the rows with twice the weight have the same mean, for
    half of the passes (docs/benchmarks.md compares).
    """
    return real if options.guidance_reference == "ema" else real[::2]


def guided_velocities(
    rows: RoleBatch, real: tuple[int, ...], options: ObjectiveSettings, teacher: Predict, base: Predict | None
) -> Tensor:
    """The velocities of all rows, (B, ...): z - x, guided on `guided_rows` whose time lies in `enhanced_range`."""
    chosen = guided_rows(real, options)
    at = index(chosen, rows.t)
    weight = options.ratio if options.guidance_reference == "ema" else options.scale - 1
    found = guided(
        rows.velocity[at],
        rows.x_t[at],
        rows.t[at],
        chosen,
        weight=weight * len(real) / len(chosen),
        options=options,
        reference=reference(options, teacher, base),
    )
    return rows.velocity.index_copy(0, at, found.to(rows.velocity.dtype))
