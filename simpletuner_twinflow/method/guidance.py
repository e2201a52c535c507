"""Classifier-free guidance baked into the training targets, so that sampling needs none.

With the guidance scale w, `v + (w - 1) (B_c - B_u)` of a frozen base network B has one fixed point, which is the base's
own guided field where v's mean is B_c. The documented `v + rho (F_c - F_u)` takes both from the network that is
trained; its fixed point, scale 1 / (1 - rho), assumes that F_u stands still, which nothing sees to.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import UNUSED, Predict, PromptRows, RoleBatch, call, index
from simpletuner_twinflow.method.flow import at_least_float32, per_sample
from simpletuner_twinflow.method.roles import REAL_ROLES, Role
from simpletuner_twinflow.method.settings import ObjectiveSettings
from simpletuner_twinflow.method.transfer import numbers


def guided_velocity(velocity: Tensor, conditional: Tensor, unconditional: Tensor, weight: float | Tensor) -> Tensor:
    """`v + weight (F(x_t, t, t; c) - F(x_t, t, t; none))`, detached (`enhance_target` in the public code).

    Args:
        velocity: z - x, (B, ...).
        conditional: the reference's velocity under the prompt, (B, ...).
        unconditional: the reference's velocity under the empty prompt, (B, ...).
        weight: rho where the reference is the network being trained, w - 1 where it stands still, or as many of them as
            rows, (B, 1, ...); 0 leaves the velocity as it is.
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
    weight: float | Tensor,
    options: ObjectiveSettings,
    reference: Predict,
    together: bool = False,
) -> Tensor:
    """The velocities at x_t, (n, ...), guided where t, (n,), lies in `enhanced_range`, else as they are.

    Takes two passes over all rows, or one over them twice: leaving out those outside the range would mean waiting for
    the device.
    """
    ones = torch.ones_like(t)
    if together:
        x_twice, t_twice = torch.cat([x_t, x_t]), torch.cat([t, t])
        both = PromptRows(prompts + prompts, half_unconditional=True)
        conditional, unconditional = call(reference, x_twice, t_twice, t_twice, torch.cat([ones, ones]), both).chunk(2)
    else:
        conditional = call(reference, x_t, t, t, ones, PromptRows(prompts))
        unconditional = call(reference, x_t, t, t, ones, PromptRows(prompts, unconditional=True))
    low, high = options.enhanced_range
    within = per_sample((t >= low) & (t <= high), like=x_t)
    return torch.where(within, guided_velocity(velocity, conditional, unconditional, weight), velocity)


def guided_every(options: ObjectiveSettings) -> tuple[int, int]:
    """One of how many rows at r = t, and of how many jumps, is guided by the base, with as many times the weight.

    A jump's correction is clamped, so its weight must not be large. Another loss than the squared error has no
    gradient that is linear in the velocity, so that each row is guided.
    """
    return (4, 2) if options.loss == "l2" else (1, 1)


def guided_groups(rows: RoleBatch, options: ObjectiveSettings, turn: int = 0) -> list[tuple[tuple[int, ...], float]]:
    """The rows whose velocity is guided, in groups with the weight of the guide's difference.

    By `ema` all real rows with rho. By `base` the rows of `guided_every`, with w - 1 as many times over: a squared
    error's gradient and RCGM's residual are linear in the velocity, so that the mean over turns is the gradient of all
    rows guided, for a third of the passes.

    Args: turn: a number that rises by one from batch to batch; which rows are guided goes round with it.
    """
    near = rows.having(Role.near)
    if options.guidance_reference == "ema":
        return [(rows.having(*REAL_ROLES), options.ratio)]
    jumps = rows.having(*(role for role in REAL_ROLES if role is not Role.near))
    groups = zip((near, jumps), guided_every(options), strict=True)
    return [(members[turn % every :: every], every * (options.scale - 1)) for members, every in groups]


def guided_velocities(
    rows: RoleBatch,
    options: ObjectiveSettings,
    teacher: Predict,
    base: Predict | None,
    *,
    turn: int = 0,
    elsewhere: Collection[Role] = (),
    unprompted: Collection[int] = (),
    together: Callable[[], bool] | None = None,
) -> tuple[Tensor, int]:
    """The velocities of all rows, (B, ...), and how many of them took two passes of the guide.

    Guided on the rows of `guided_groups` whose time lies in `enhanced_range`, else z - x. Where there are none, but
    among the roles `elsewhere`, both passes are made for the sake of other ranks.

    Args:
        turn: see `guided_groups`.
        elsewhere: the roles of other ranks' rows, see `objective.compute_losses`.
        unprompted: rows whose prompt is the empty one, so that there is nothing between the guide's two fields.
        together: whether the guide can be asked for both prompts in one call; None if not. It is, where that call has
            no more rows than the batch: so it needs no more memory than a pass on the batch.
    """
    groups = [
        (tuple(row for row in members if row not in unprompted), weight)
        for members, weight in guided_groups(rows, options, turn)
    ]
    chosen = tuple(row for members, _ in groups for row in members)
    if not chosen and {*REAL_ROLES}.isdisjoint(elsewhere):
        return rows.velocity, 0
    guide = reference(options, teacher, base)
    if not chosen:
        at = index(UNUSED, rows.t)
        unused = rows.velocity[at], rows.x_t[at], rows.t[at], UNUSED
        guided(*unused, weight=0.0, options=options, reference=guide)
        return rows.velocity, 0
    weights = tuple(weight for members, weight in groups for _ in members)
    at = index(chosen, rows.t)
    found = guided(
        rows.velocity[at],
        rows.x_t[at],
        rows.t[at],
        chosen,
        weight=weights[0] if len(set(weights)) == 1 else per_sample(numbers(weights, rows.t.device), rows.velocity),
        options=options,
        reference=guide,
        together=together is not None and 2 * len(chosen) <= len(rows.roles) and together(),
    )
    return rows.velocity.index_copy(0, at, found.to(rows.velocity.dtype)), len(chosen)
