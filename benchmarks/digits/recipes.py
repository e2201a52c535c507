"""From a batch of digits to a loss: the project's objective, and the public tutorial's recipe.

A recipe is a function of data (B, 64), labels (B,) and the step's number.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.digits.network import TwinNet
from benchmarks.digits.setup import NO_LABEL
from benchmarks.digits.variants import Variant
from simpletuner_twinflow.method.flow import endpoints, interpolate, per_sample, rollout
from simpletuner_twinflow.method.losses import rcgm_target, rectify_target, squared_error
from simpletuner_twinflow.method.objective import ObjectiveSettings, Predict, PromptRows, training_step
from simpletuner_twinflow.method.roles import RoleSampler
from simpletuner_twinflow.method.teacher import teacher_weights

STUDENT_COST = 3  # a pass with gradient, in passes without: its backward pass counts for two


class Step(NamedTuple):
    """A training step up to its loss."""

    loss: Tensor  # scalar, with its graph
    cost: int  # row-passes without gradient it came to; one with gradient counts as STUDENT_COST


Recipe = Callable[[Tensor, Tensor, int], Step]


def recipe_of(variant: Variant, net: TwinNet, shadows: list[Tensor], seed: int) -> Recipe:
    """The variant's recipe for one run.

    Args:
        variant: what to train by; not the untrained base.
        net: the network being trained.
        shadows: averages of its parameters, in their order; the teacher reads them as they are at each pass.
        seed: of the run.
    """
    if variant.recipe == "host":
        from benchmarks.digits.host import host_recipe  # the host takes half a minute to import

        return host_recipe(net, shadows, variant.objective)
    build = {"roles": _roles, "tutorial": _tutorial}[variant.recipe]
    return build(variant, net, shadows, seed)


def _roles(variant: Variant, net: TwinNet, shadows: list[Tensor], seed: int) -> Recipe:
    sampler = RoleSampler(variant.objective.roles(), seed=seed, rank=0)
    generator = torch.Generator().manual_seed(seed)
    times = variant.trained_times
    pretrained = copy.deepcopy(net)  # nothing has been trained yet

    def step(x: Tensor, y: Tensor, number: int) -> Step:
        roles = sampler.sample(len(x), window=number, window_rows=len(x))
        y = torch.where(torch.rand(len(y)) < variant.label_dropout, NO_LABEL, y)
        student, teacher = _passes(variant, net, shadows, y)
        base, _ = _passes(variant, pretrained, shadows, y)
        z, t = torch.randn_like(x), torch.rand(len(x))
        losses = training_step(
            x,
            z,
            t,
            roles,
            variant.objective,
            student,
            teacher,
            generator,
            step_times=times.jumps,
            sampler_steps=times.steps,
            base=base,
            turn=number,
        )
        forwards = losses.forwards
        return Step(losses.total, sum(forwards.values()) + (STUDENT_COST - 1) * forwards["student"])

    return step


def _tutorial(variant: Variant, net: TwinNet, shadows: list[Tensor], seed: int) -> Recipe:
    """Every term on every row, in four passes with gradient, as the public MNIST tutorial trains.

    Its twin rows share noise and time with the real ones, the one-step prediction has an RCGM term of its own, and the
    velocity difference of rectify is not clamped. Without the adversarial branch it is RCGM alone.
    """
    options = variant.objective
    cost = STUDENT_COST + options.estimate_order
    if options.adversarial_enabled:
        cost = 4 * STUDENT_COST + 2 * options.estimate_order + 2

    def step(x: Tensor, y: Tensor, number: int) -> Step:
        student, teacher = _passes(variant, net, shadows, y)
        t = torch.rand(len(x))
        r, z = t * torch.rand(len(x)), torch.randn_like(x)
        prediction = student(interpolate(x, z, t).x_t, t, r, torch.ones_like(t), PromptRows(tuple(range(len(x)))))
        return Step(tutorial_loss(x, z, t, r, prediction, options, student, teacher), cost * len(x))

    return step


def tutorial_loss(
    x: Tensor,
    z: Tensor,
    t: Tensor,
    r: Tensor,
    prediction: Tensor,
    options: ObjectiveSettings,
    student: Predict,
    teacher: Predict,
) -> Tensor:
    """The tutorial's loss, a mean over rows, with torch's global random numbers.

    Args:
        x: data, (B, ...); z: noise, (B, ...); t, r: times of the first pass, (B,), r below t.
        prediction: of the student's first pass, with its graph.
        options: of the run; student: passes with gradient; teacher: passes of the averages.
    """
    everyone, ones, zeros = PromptRows(tuple(range(len(x)))), torch.ones_like(t), torch.zeros_like(t)
    x_t, velocity = interpolate(x, z, t)

    def rcgm_loss(prediction: Tensor, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        target = _rcgm_target(prediction.detach(), velocity, x_t, t, r, options, teacher, everyone)
        return squared_error(prediction, target).mean()

    loss = rcgm_loss(prediction, x_t, t, r)
    if not options.adversarial_enabled:
        return loss
    loss = loss + squared_error(student(x_t, t, t, ones, everyone), velocity).mean()

    one_step = student(z, ones, zeros, ones, everyone)
    x_hat = endpoints(z, one_step.detach(), ones).x_hat
    fake = interpolate(x_hat, z, t)
    loss = loss + squared_error(student(fake.x_t, t, t, -ones, everyone), fake.velocity).mean()

    with torch.no_grad():
        t_again = torch.rand_like(t)
        x_again = interpolate(x_hat, torch.randn_like(x), t_again).x_t
        twin, real = (student(x_again, t_again, t_again, sign, everyone) for sign in (-ones, ones))
    loss = loss + squared_error(one_step, rectify_target(one_step, twin - real, clamp=math.inf)).mean()
    return loss + rcgm_loss(one_step, z, ones, zeros)


@torch.no_grad()
def _rcgm_target(
    prediction: Tensor,
    velocity: Tensor,
    x_t: Tensor,
    t: Tensor,
    r: Tensor,
    options: ObjectiveSettings,
    teacher: Predict,
    condition: PromptRows,
) -> Tensor:
    s = torch.maximum(t - options.delta_t, r)
    x_s = x_t - per_sample(t - s, like=x_t) * velocity

    def walk(x: Tensor, now: Tensor, following: Tensor) -> Tensor:
        return teacher(x, now, following, torch.ones_like(now), condition)

    displacement = rollout(walk, x_s, s, r, options.estimate_order).displacement
    return rcgm_target(prediction, velocity, displacement, t, r, delta_t=options.delta_t, clamp=options.target_clamp)


def _passes(variant: Variant, net: TwinNet, shadows: list[Tensor], y: Tensor) -> tuple[Predict, Predict]:
    """The student's and the teacher's passes on a batch with labels y, (B,)."""
    parameters = list(net.parameters())

    def student(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, condition: PromptRows) -> Tensor:
        labels = y[list(condition.rows)]
        return net(x_t, t, r, sign, torch.full_like(labels, NO_LABEL) if condition.unconditional else labels)

    def teacher(x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, condition: PromptRows) -> Tensor:
        with teacher_weights(parameters, shadows):
            return student(x_t, t, r, sign, condition)

    return student, student if variant.student_teacher else teacher
