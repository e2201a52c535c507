"""One training step of TwinFlow, from tensors and a `predict` callable to named losses.

Each row has the terms of its role (see `roles`), so one pass of the student with gradient serves all terms. The total
is the mean over rows, so the micro-batches of an accumulation window add up to one large batch.

| role     | terms                                                       | passes beside the student's |
|----------|-------------------------------------------------------------|------------------------------|
| one_step | rcgm; rectify if the adversarial branch is on               | N rollout, 2 rectify         |
| any_step, sampler_step | rcgm                                          | N rollout                    |
| near     | real_velocity                                               |                              |
| twin     | adversarial                                                 | 1 generated                     |

Guidance takes two more on all but twin rows where it acts in the velocity, and on one_step rows where it acts in
rectify. Sources and formulas: docs/method.md.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import (
    ONE_STEP,
    UNUSED,
    Draws,
    Predict,
    PromptRows,
    RoleBatch,
    call,
    index,
    prepare_role_batch,
)
from simpletuner_twinflow.method.flow import endpoints, interpolate, per_sample, rollout
from simpletuner_twinflow.method.guidance import guided, guided_velocities, reference
from simpletuner_twinflow.method.losses import barron, rcgm_target, rectify_target, squared_error, time_weight
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import ObjectiveSettings

__all__ = [
    "Losses",
    "ObjectiveSettings",
    "Predict",
    "PromptRows",
    "RoleBatch",
    "Term",
    "compute_losses",
    "prepare_role_batch",
    "training_step",
]

JUMPS = (Role.one_step, Role.any_step, Role.sampler_step)  # the roles with r below t
DISTANCES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {"l2": squared_error, "barron": barron}


@dataclass(frozen=True, eq=False)
class Term:
    """One term, summed over the rows that have it."""

    total: Tensor  # scalar, detached, without the term's weight
    rows: int


@dataclass(frozen=True, eq=False)
class Losses:
    """The result of a training step. Nothing has been read back from the device."""

    total: Tensor  # scalar with graph: the weighted terms, summed and divided by the number of rows
    terms: dict[str, Term]  # "rcgm", "real_velocity", "adversarial", "rectify"; those with rows in this batch
    # Rows passed through the network: "student", "generated", "guidance", "rollout", "rectify".
    forwards: dict[str, int]
    # What shows how training goes, and is no loss; "clamped": the share of RCGM's residuals that the clamp cut,
    # "sign_separation": the root mean square of F(x, -t, -t) - F(x, t, t) in rectify, by row.
    watched: dict[str, Term]


def compute_losses(
    rows: RoleBatch,
    graded: Callable[[], Tensor],
    options: ObjectiveSettings,
    student: Predict,
    teacher: Predict,
    generator: torch.Generator,
    *,
    base: Predict | None = None,
    weights: Tensor | None = None,
    turn: int = 0,
    elsewhere: Collection[Role] = (),
    unprompted: Collection[int] = (),
    together: Callable[[], bool] | None = None,
) -> Losses:
    """Every term of the batch, with the student's pass.

    Args:
        rows: of `prepare_role_batch`.
        graded: makes the student's F(rows.x_t, rows.t, rows.r, rows.sign), with its graph, (B, ...); asked once, after
            guidance and rollout, so that the graph takes no memory beside theirs.
        options: of the run.
        student: the weights being trained, for the two velocities of rectify; called without gradient.
        teacher: the averaged weights with the student's random numbers; called without gradient.
        generator: source of every random number drawn here.
        base: the frozen network before training, with the student's random numbers; called without gradient, and needed
            only where it is the reference of guidance.
        weights: of each squared error in every term, (B, 1, ...) or (B, ...); None for 1.
        turn: a number that rises by one from batch to batch; see `guidance.guided_groups`.
        elsewhere: the roles of other ranks' rows, where a pass is one that all ranks make together, as of weights that
            are sharded: of each kind as many passes are then made as for a row of these roles, in the same order, on
            the first row where none needs them, and what comes of those is not used.
        unprompted, together: see `guidance.guided_velocities`.

    Raises:
        TwinFlowError: if the prediction's shape is not the rows', or the base is needed and not given.
    """
    one_step = rows.having(Role.one_step)
    forwards = {"student": len(rows.roles), "generated": rows.generated, "guidance": 0, "rollout": 0, "rectify": 0}
    losses: dict[str, tuple[Tensor, float]] = {}  # by term: the loss of each row that has it, and its weight
    watched: dict[str, Term] = {}

    velocity = rows.velocity
    if options.guides("velocity"):
        velocity, guided_count = guided_velocities(
            rows,
            options,
            teacher,
            base,
            turn=turn,
            elsewhere=elsewhere,
            unprompted=unprompted,
            together=together,
        )
        forwards["guidance"] += 2 * guided_count

    if jumps := rows.having(*JUMPS):
        displacement = _displacement(rows, jumps, velocity, options, teacher)
        forwards["rollout"] = options.estimate_order * len(jumps)
    elif not {*JUMPS}.isdisjoint(elsewhere):
        _displacement(rows, UNUSED, velocity, options, teacher)
    prediction = graded()
    if prediction.shape != rows.x_t.shape:
        raise TwinFlowError(
            f"The student's pass returned shape {tuple(prediction.shape)} for x_t of {tuple(rows.x_t.shape)}."
        )

    def distance(at: tuple[int, ...], target: Tensor) -> Tensor:
        rows_at = index(at, prediction)
        return DISTANCES[options.loss](prediction[rows_at], target, None if weights is None else weights[rows_at])

    def real_loss(at: tuple[int, ...], target: Tensor) -> Tensor:
        loss = distance(at, target)
        if options.time_weighting:
            loss = loss * time_weight(rows.t, rows.r)[index(at, loss)]
        return loss

    if jumps:
        target, clamped = _rcgm_target(rows, jumps, prediction.detach(), velocity, displacement, options)
        losses["rcgm"] = real_loss(jumps, target), 1.0
        watched["clamped"] = Term(total=clamped.sum(), rows=len(jumps))
    if near := rows.having(Role.near):
        losses["real_velocity"] = real_loss(near, velocity[index(near, velocity)]), 1.0
    if twins := rows.having(Role.twin):
        losses["adversarial"] = distance(twins, rows.velocity[index(twins, prediction)]), options.adversarial_weight
    rectify = options.adversarial_enabled and options.rectify_weight > 0
    if rectify and (one_step or Role.one_step in elsewhere):
        asked = one_step or UNUSED
        f1 = prediction[index(asked, prediction)]
        draws, guide = Draws(generator, rows.x_t.device), None
        if options.guides("rectify"):
            guide = reference(options, teacher, base)
            forwards["guidance"] += 2 * len(one_step)
        target, separation = _rectify_target(rows, asked, f1.detach(), options, student, guide, draws)
    if rectify and one_step:
        watched["sign_separation"] = Term(total=separation.sum(), rows=len(one_step))
        losses["rectify"] = distance(one_step, target), options.rectify_weight
        forwards["rectify"] = 2 * len(one_step)

    weighted = [weight * loss.sum() for loss, weight in losses.values()]
    terms = {name: Term(total=loss.detach().sum(), rows=loss.shape[0]) for name, (loss, _) in losses.items()}
    total = torch.stack(weighted).sum() / len(rows.roles)
    return Losses(total=total, terms=terms, forwards=forwards, watched=watched)


def training_step(
    x: Tensor,
    z: Tensor,
    t: Tensor,
    roles: tuple[Role, ...],
    options: ObjectiveSettings,
    student: Predict,
    teacher: Predict,
    generator: torch.Generator,
    *,
    step_times: tuple[float, ...] = ONE_STEP,
    sampler_steps: tuple[tuple[float, float], ...] = (),
    base: Predict | None = None,
    turn: int = 0,
    elsewhere: Collection[Role] = (),
) -> Losses:
    """`prepare_role_batch` and `compute_losses` with the student's pass in one; the arguments are theirs."""
    rows = prepare_role_batch(
        x,
        z,
        t,
        roles,
        options,
        student,
        generator,
        step_times=step_times,
        sampler_steps=sampler_steps,
        elsewhere=elsewhere,
    )
    asked = rows.x_t, rows.t, rows.r, rows.sign, PromptRows(tuple(range(len(roles))))
    return compute_losses(
        rows, lambda: student(*asked), options, student, teacher, generator, base=base, turn=turn, elsewhere=elsewhere
    )


@torch.no_grad()
def _displacement(
    rows: RoleBatch, jumps: tuple[int, ...], velocity: Tensor, options: ObjectiveSettings, teacher: Predict
) -> Tensor:
    """How far a rollout of the teacher goes from just before t to r, on these rows, (n, ...)."""
    at = index(jumps, rows.t)
    t, r, v = rows.t[at], rows.r[at], velocity[at]
    s = torch.maximum(t - options.delta_t, r)
    x_s = rows.x_t[at] - per_sample(t - s, like=v) * v

    def jump(x: Tensor, now: Tensor, following: Tensor) -> Tensor:
        return call(teacher, x, now, following, torch.ones_like(now), PromptRows(jumps))

    return rollout(jump, x_s, s, r, options.estimate_order).displacement


@torch.no_grad()
def _rcgm_target(
    rows: RoleBatch,
    jumps: tuple[int, ...],
    prediction: Tensor,
    velocity: Tensor,
    displacement: Tensor,
    options: ObjectiveSettings,
) -> tuple[Tensor, Tensor]:
    """The RCGM target of these rows, (n, ...), and the share that the clamp cut, (n,).

    An element counts as cut if it lies a clamp from the prediction, but for rounding.
    """
    at = index(jumps, rows.t)
    t, r, v = rows.t[at], rows.r[at], velocity[at]
    f, clamp = prediction[at], options.target_clamp
    target = rcgm_target(f, v, displacement, t, r, delta_t=options.delta_t, clamp=clamp)
    return target, ((target - f).abs() >= 0.999 * clamp).float().flatten(1).mean(dim=1)


@torch.no_grad()
def _rectify_target(
    rows: RoleBatch,
    one_step: tuple[int, ...],
    f1: Tensor,
    options: ObjectiveSettings,
    student: Predict,
    guide: Predict | None,
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """The rectify target of the one-step rows, (n, ...), and how far the two velocities are apart, (n,).

    One pass gives both velocities on their noised samples.

    With a `guide` the real velocity is the guided one, `real + (w - 1) (c - u)` by the guide's fields: the CFG
    augmentation of Decoupled DMD (arXiv:2511.22677).
    """
    at = index(one_step, rows.t)
    x_hat = endpoints(rows.x_t[at], f1, rows.t[at]).x_hat
    t = draws.uniform(len(one_step))
    x_t = interpolate(x_hat, draws.normal(x_hat), t).x_t
    x_twice, t_twice = torch.cat([x_t, x_t]), torch.cat([t, t])
    sign = torch.cat([-torch.ones_like(t), torch.ones_like(t)])
    twin, real = call(student, x_twice, t_twice, t_twice, sign, PromptRows(one_step + one_step)).chunk(2)
    separation = (twin - real).square().flatten(1).mean(dim=1).sqrt()
    if guide is not None:
        real = guided(real, x_t, t, one_step, weight=options.scale - 1, options=options, reference=guide)
    return rectify_target(f1, twin - real), separation
