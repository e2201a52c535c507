"""How far the velocities of student, teacher and base are apart: what a run drifts from, beside its losses."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.method.batch import PromptRows, call
from simpletuner_twinflow.method.flow import interpolate

Weights = Callable[[], AbstractContextManager[None]]


@torch.no_grad()
def distances(
    model: FamilyModel,
    batches: Sequence[Mapping[str, Any]],
    seed: int,
    *,
    teacher: Weights | None,
    base: Weights | None,
    empty_prompt: bool,
) -> dict[str, float]:
    """Root mean square differences of velocities at r = t, as shares of the second one's root mean square.

    On the rows' latents with noise from the seed, at times spread evenly over (0, 1).

    Args:
        batches: host batches on the network's device, which holds the student's weights.
        teacher: lends the averaged weights; None without them.
        base: lends the first weights; None where they are not kept.
        empty_prompt: whether the batches have an embedding of the empty prompt.

    Returns:
        "student_to_teacher"; with the base "student_to_base" and, of the empty prompt, "empty_prompt_drift".
    """

    def velocities(weights: Weights, *, empty: bool = False) -> Tensor:
        with weights():
            return torch.cat([_velocity(model, batch, seed + i, empty).flatten() for i, batch in enumerate(batches)])

    student, found = velocities(nullcontext), {}
    if teacher is not None:
        found["student_to_teacher"] = _apart(student, velocities(teacher))
    if base is not None:
        found["student_to_base"] = _apart(student, velocities(base))
    if base is not None and empty_prompt:
        found["empty_prompt_drift"] = _apart(velocities(nullcontext, empty=True), velocities(base, empty=True))
    return found


def _velocity(model: FamilyModel, batch: Mapping[str, Any], seed: int, empty: bool) -> Tensor:
    x = batch["latents"].float()
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    t = (torch.arange(len(x), device=x.device) + 0.5) / len(x)
    prompts = PromptRows(tuple(range(len(x))), unconditional=empty)
    return call(model.predict_with(batch), interpolate(x, z, t).x_t, t, t, torch.ones_like(t), prompts)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp(min=1e-12))
