"""The rows of a training step, from data, noise and roles: points on the path, times and signs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import at_least_float32, endpoints, interpolate, per_sample
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import ObjectiveSettings
from simpletuner_twinflow.method.transfer import numbers, on_device, row_index

ONE_STEP = (1.0,)  # the times at which a sampler of one step calls the network
UNUSED = (0,)  # the rows of a pass that is made for the sake of other ranks


@dataclass(frozen=True)
class PromptRows:
    """The rows of the batch whose prompts a pass uses, in this order, possibly repeated."""

    rows: tuple[int, ...]
    unconditional: bool = False  # the empty prompt in place of the rows' own
    half_unconditional: bool = False  # in place of those of the second half alone


Predict = Callable[[Tensor, Tensor, Tensor, Tensor, PromptRows], Tensor]
"""`predict(x_t, t, r, sign, prompts)`: the noise-ward average velocity F, of x_t's shape (n, ...).

t and r are (n,) float32 in [0, 1] and never negative; sign is (n,) of +1 or -1: F(x, -t, -t) is (t, r = t, sign = -1).
"""


@dataclass(frozen=True, eq=False)
class RoleBatch:
    """The inputs of the student's pass with gradient, one entry a row; tensors in float32 at least."""

    roles: tuple[Role, ...]
    x: Tensor  # (B, ...), data; a generated sample on twin rows
    z: Tensor  # (B, ...), noise
    t: Tensor  # (B,), float32
    r: Tensor  # (B,), float32, 0 <= r <= t
    sign: Tensor  # (B,), float32, -1 on twin rows
    x_t: Tensor  # (B, ...)
    velocity: Tensor  # (B, ...), z - x
    generated: int = 0  # number of rows whose sample the student generated

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

    def turns(self, choices: int, count: int) -> Tensor:
        """(count,) of the numbers below `choices` in turn, starting at a random one."""
        first = torch.randint(choices, (1,), generator=self.generator, device=self.generator.device)
        return (torch.arange(count, device=self.device) + on_device(first, self.device)) % choices

    def cycled(self, values: tuple[float, ...], count: int) -> Tensor:
        """(count,) of the values in turn, starting at a random one."""
        return numbers(values, self.device)[self.turns(len(values), count)]


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
    step_times: tuple[float, ...] = ONE_STEP,
    sampler_steps: tuple[tuple[float, float], ...] = (),
    elsewhere: Collection[Role] = (),
) -> RoleBatch:
    """Give each row its times, sign and point on the path, by its role.

    one_step rows have one of `step_times` and r = 0; sampler_step rows the two times of one of `sampler_steps`; near
    rows r = t; any_step rows r below t; twin rows a generated sample, new noise, a new time, r = t and sign -1.
    `time_sampling` says how near and any_step rows get their times. One pass of the student generates all samples.

    Args:
        x: data, (B, ...).
        z: noise, (B, ...).
        t: times in [0, 1] of near and any_step rows, (B,), where `time_sampling` is "host".
        roles: B roles, as sampled.
        options: of the run.
        student: the weights being trained; called, without gradient, only where a sample is to be generated.
        generator: source of every random number drawn here.
        step_times: times in (0, 1] of the jumps to the data.
        sampler_steps: the times (t, r), 0 <= r < t <= 1, from and to which the sampler steps.
        elsewhere: the roles of other ranks' rows, where a pass is one that all ranks make together: the student is
            then called for a rank that generates nothing, too, and what comes of it is not used.

    Raises:
        TwinFlowError: if the numbers of rows differ, or there is a twin row without the adversarial branch, or a
            sampler_step row without sampler steps.
    """
    _check_rows(x, z, t, roles, step_times, options)
    if Role.sampler_step in roles and not sampler_steps:
        raise TwinFlowError("There is a sampler_step row and no sampler_steps: pass them, or give that role no share.")
    draws = Draws(generator, x.device)
    x, z = at_least_float32(x), at_least_float32(z)
    t, other = _times(t.to(torch.float32), options, draws)
    r, sign = t, torch.ones_like(t)

    if rows := rows_having(roles, Role.one_step):
        at = index(rows, x)
        t = t.index_copy(0, at, draws.cycled(step_times, len(rows)))
        r = r.index_fill(0, at, 0.0)
    if rows := rows_having(roles, Role.sampler_step):
        at, turn = index(rows, x), draws.turns(len(sampler_steps), len(rows))
        starts, ends = (numbers(times, x.device)[turn] for times in zip(*sampler_steps, strict=True))
        t, r = t.index_copy(0, at, starts), r.index_copy(0, at, ends)
    if rows := rows_having(roles, Role.any_step):
        at = index(rows, x)
        times, others = t[at], t[at] * draws.uniform(len(rows)) if other is None else other[at]
        t, r = t.index_copy(0, at, times.maximum(others)), r.index_copy(0, at, times.minimum(others))

    generated = tuple(range(len(roles))) if options.image_free else rows_having(roles, Role.twin)
    if generated:
        samples = _generate(x, generated, step_times, options.image_free, student, draws)
        x = x.index_copy(0, index(generated, x), samples)
    elif Role.twin in elsewhere:
        call(student, x[:1], t[:1], torch.zeros_like(t[:1]), torch.ones_like(t[:1]), PromptRows(UNUSED))
    if rows := rows_having(roles, Role.twin):
        at = index(rows, x)
        z = z.index_copy(0, at, draws.normal(z[at]))
        times = draws.uniform(len(rows))
        t, r, sign = t.index_copy(0, at, times), r.index_copy(0, at, times), sign.index_fill(0, at, -1.0)

    x_t, velocity = interpolate(x, z, t)
    return RoleBatch(roles, x=x, z=z, t=t, r=r, sign=sign, x_t=x_t, velocity=velocity, generated=len(generated))


def _times(t: Tensor, options: ObjectiveSettings, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """The times of near and any_step rows, (B,), and a second one for the latter where that is sampled alike.

    Two logit-normal times are MeanFlow's (Geng et al. 2025, arXiv:2505.13447, section 4.3).
    """
    match options.time_sampling:
        case "host":
            return t, None
        case "uniform":
            return draws.uniform(len(t)), None
        case "logit_normal":
            return draws.normal(t).sigmoid(), draws.normal(t).sigmoid()


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
