"""The rows of a training step, from data, noise and roles: points on the path, times and signs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import at_least_float32, endpoints, interpolate, per_sample, rollout
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import ObjectiveSettings
from simpletuner_twinflow.method.transfer import numbers, on_device, row_index

ONE_STEP = (1.0,)  # the times at which a sampler of one step calls the network
LATER_TIMES = (0.2, 0.95)  # of later_step rows: where a sampler of 2 to 5 even steps calls the network after its first


@dataclass(frozen=True)
class PromptRows:
    """The rows of the batch whose prompts a pass uses, in this order, possibly repeated."""

    rows: tuple[int, ...]
    unconditional: bool = False  # the empty prompt in place of the rows' own


Predict = Callable[[Tensor, Tensor, Tensor, Tensor, PromptRows], Tensor]
"""`predict(x_t, t, r, sign, prompts)`: the noise-ward average velocity F, of x_t's shape (n, ...).

t and r are (n,) float32 in [0, 1] and never negative; sign is (n,) of +1 or -1: F(x, -t, -t) is (t, r = t, sign = -1).
"""


@dataclass(frozen=True, eq=False)
class RoleBatch:
    """The inputs of the student's pass with gradient, one entry a row; tensors in float32 at least."""

    roles: tuple[Role, ...]
    x: Tensor  # (B, ...), data; a generated sample on twin and later_step rows
    z: Tensor  # (B, ...), noise
    t: Tensor  # (B,), float32
    r: Tensor  # (B,), float32, 0 <= r <= t
    sign: Tensor  # (B,), float32, -1 on twin rows
    x_t: Tensor  # (B, ...)
    velocity: Tensor  # (B, ...), z - x; on later_step rows the average velocity to the end of the teacher's walk
    generated: int = 0  # rows passed through the network to make them

    def having(self, *roles: Role) -> tuple[int, ...]:
        """The numbers of the rows with one of these roles."""
        return rows_having(self.roles, *roles)


@dataclass(frozen=True)
class Draws:
    """Random numbers of a training step, from its own generator; global streams are left alone."""

    generator: torch.Generator
    device: torch.device

    def uniform(self, count: int) -> Tensor:
        """(count,) float32 in [0, 1)."""
        drawn = torch.rand(count, generator=self.generator, device=self.generator.device)
        return on_device(drawn, self.device)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape and dtype of `like`."""
        noise = torch.randn(like.shape, generator=self.generator, device=self.generator.device, dtype=like.dtype)
        return on_device(noise, self.device)

    def cycled(self, values: tuple[float, ...], count: int) -> Tensor:
        """(count,) of the values in turn, starting at a random one."""
        first = torch.randint(len(values), (1,), generator=self.generator, device=self.generator.device)
        turn = (torch.arange(count, device=self.device) + on_device(first, self.device)) % len(values)
        return numbers(values, self.device)[turn]


def rows_having(roles: tuple[Role, ...], *wanted: Role) -> tuple[int, ...]:
    """The numbers of the rows with one of the wanted roles."""
    return tuple(row for row, role in enumerate(roles) if role in wanted)


def index(rows: tuple[int, ...], like: Tensor) -> Tensor:
    """Row numbers as an index on the device of `like`, without waiting for it."""
    return row_index(rows, like.device)


def call(predict: Predict, x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows) -> Tensor:
    """One pass, its result in float32 at least.

    Raises:
        TwinFlowError: if the result has another shape than x_t, which would broadcast to a wrong loss.
    """
    prediction = predict(x_t, t, r, sign, prompts)
    if prediction.shape != x_t.shape:
        raise TwinFlowError(f"predict returned shape {tuple(prediction.shape)} for x_t of {tuple(x_t.shape)}.")
    return at_least_float32(prediction)


@torch.no_grad()
def prepare_role_batch(
    x: Tensor,
    z: Tensor,
    t: Tensor,
    roles: tuple[Role, ...],
    options: ObjectiveSettings,
    student: Predict,
    generator: torch.Generator,
    *,
    teacher: Predict | None = None,
    step_times: tuple[float, ...] = ONE_STEP,
) -> RoleBatch:
    """Give each row its times, sign and point on the path, by its role.

    one_step rows have the sampler's first time and r = 0, or any of its times if there are no later_step rows in the
    objective; near rows r = t; any_step rows r uniform below t; twin rows a generated sample, new noise, a new time,
    r = t and sign -1; later_step rows a point to which the sampler's steps lead from their noise, and r = 0. One pass
    of the student generates all samples of twin rows.

    Args:
        x: data, (B, ...).
        z: noise, (B, ...).
        t: times in [0, 1] of near and any_step rows, (B,).
        roles: B roles, as sampled.
        options: of the run.
        student: the weights being trained; called, without gradient, only where a sample is to be generated.
        generator: source of every random number drawn here.
        teacher: the averaged weights; called, without gradient, for later_step rows only.
        step_times: the K times in (0, 1] at which the sampler calls the network.

    Raises:
        TwinFlowError: if the numbers of rows differ, or there is a twin row without the adversarial branch, or a
            later_step row without a teacher.
    """
    _check_rows(x, z, t, roles, step_times, options)
    first = max(step_times)
    if options.roles().get(Role.later_step):
        step_times = (first,)
    draws = Draws(generator, x.device)
    x, z, t = at_least_float32(x), at_least_float32(z), t.to(torch.float32)
    r, sign = t, torch.ones_like(t)

    if rows := rows_having(roles, Role.one_step):
        at = index(rows, x)
        t = t.index_copy(0, at, draws.cycled(step_times, len(rows)))
        r = r.index_fill(0, at, 0.0)
    if rows := rows_having(roles, Role.any_step):
        at = index(rows, x)
        r = r.index_copy(0, at, t[at] * draws.uniform(len(rows)))

    wanted = tuple(role for role in Role if role is not Role.later_step) if options.image_free else (Role.twin,)
    generated = rows_having(roles, *wanted)
    if generated:
        samples = _generate(x, generated, step_times, options.image_free, student, draws)
        x = x.index_copy(0, index(generated, x), samples)
    if rows := rows_having(roles, Role.twin):
        at = index(rows, x)
        z = z.index_copy(0, at, draws.normal(z[at]))
        times = draws.uniform(len(rows))
        t, r, sign = t.index_copy(0, at, times), r.index_copy(0, at, times), sign.index_fill(0, at, -1.0)

    passes = len(generated)
    walked_to: Tensor | None = None
    if later := rows_having(roles, Role.later_step):
        if teacher is None:
            raise TwinFlowError("There is a later_step row and no teacher: pass one, or give that role no share.")
        at = index(later, x)
        samples, walked_to = _later_samples(z[at], later, first, options.estimate_order, teacher, draws)
        low, high = LATER_TIMES
        x, t = x.index_copy(0, at, samples), t.index_copy(0, at, low + (high - low) * draws.uniform(len(later)))
        r = r.index_fill(0, at, 0.0)
        passes += (1 + options.estimate_order) * len(later)

    x_t, velocity = interpolate(x, z, t)
    if walked_to is not None:
        velocity = velocity.index_copy(0, at, (x_t[at] - walked_to) / per_sample(t[at], like=x_t))
    return RoleBatch(roles, x=x, z=z, t=t, r=r, sign=sign, x_t=x_t, velocity=velocity, generated=passes)


def _later_samples(
    noise: Tensor, rows: tuple[int, ...], first: float, order: int, teacher: Predict, draws: Draws
) -> tuple[Tensor, Tensor]:
    """What the sampler takes for the data after its first step from this noise, and the end of a walk in `order` jumps.

    The first is between the jump in one step and the walk's end, since each further step goes some of that way.
    """
    ones = torch.ones(len(rows), device=noise.device)

    def jump(x: Tensor, now: Tensor, following: Tensor) -> Tensor:
        return call(teacher, x, now, following, ones, PromptRows(rows))

    start = first * ones
    in_one = endpoints(noise, jump(noise, start, 0 * ones), start).x_hat
    end = rollout(jump, noise, start, 0 * ones, order).x_r
    return torch.lerp(in_one, end, per_sample(draws.uniform(len(rows)), like=end).to(end.dtype)), end


def _generate(
    x: Tensor, rows: tuple[int, ...], step_times: tuple[float, ...], image_free: bool, student: Predict, draws: Draws
) -> Tensor:
    """One-step samples from one of the sampler's times s: `x_s - s F(x_s, s, 0)`.

    At the sampler's first time, the only one of image-free training, x_s is noise; later it is on the data's path.
    """
    data = x[index(rows, x)]
    noise = draws.normal(data)
    first = max(step_times)
    s = draws.cycled((first,) if image_free else step_times, len(rows))
    starts_in_noise = per_sample(s == first, like=x)
    x_s = torch.where(starts_in_noise, noise, interpolate(data, noise, s).x_t)
    velocity = call(student, x_s, s, torch.zeros_like(s), torch.ones_like(s), PromptRows(rows))
    return endpoints(x_s, velocity, s).x_hat.to(x.dtype)


def _check_rows(
    x: Tensor, z: Tensor, t: Tensor, roles: tuple[Role, ...], step_times: tuple[float, ...], options: ObjectiveSettings
) -> None:
    if not step_times or not all(0 < time <= 1 for time in step_times):
        raise TwinFlowError(f"step_times is {step_times}; allowed: at least one time in (0, 1].")
    if x.shape != z.shape or t.shape != x.shape[:1] or len(roles) != x.shape[0]:
        raise TwinFlowError(
            "Data, noise, times and roles must agree row by row; got x "
            f"{tuple(x.shape)}, z {tuple(z.shape)}, t {tuple(t.shape)} and {len(roles)} roles."
        )
    if Role.twin in roles and not options.adversarial_enabled:
        raise TwinFlowError(
            "A twin row was sampled, but the adversarial branch is off: sample from ObjectiveSettings.roles()."
        )
