"""A training step taken apart, for the tests of its parts."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simpletuner_twinflow.method.flow import per_sample
from simpletuner_twinflow.method.objective import (
    ObjectiveSettings,
    PromptRows,
    RoleBatch,
    compute_losses,
    prepare_role_batch,
)
from simpletuner_twinflow.method.roles import Role

ONE, NEAR, ANY, TWIN = Role.one_step, Role.near, Role.any_step, Role.twin
STEP = Role.sampler_step
STEPS = ((1.0, 0.5), (0.5, 0.0))  # of a sampler of two
EVERY = (ANY, TWIN, ONE, NEAR, NEAR, ONE, TWIN, ANY)
FULL = ObjectiveSettings(
    adversarial_enabled=True, adversarial_weight=0.7, rectify_weight=0.3, enhanced_ratio=0.5, guidance_reference="ema"
)


@dataclass
class Recorder:
    """A network that writes down what it was asked; by default a fixed function of all it is given."""

    function: Callable | None = None
    calls: list = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, condition: PromptRows) -> Tensor:
        self.calls.append((x_t, t, r, sign, condition, torch.is_grad_enabled()))
        if self.function is not None:
            return self.function(x_t, t, r, sign, condition)
        prompts = torch.tensor([float(row) for row in condition.rows], device=x_t.device)
        prompts = torch.zeros_like(prompts) if condition.unconditional else prompts
        t, r, sign, prompts = (per_sample(values, like=x_t) for values in (t, r, sign, prompts))
        return 0.3 * x_t + sign * torch.cos(2 * t) - 0.5 * r + 0.1 * prompts

    @property
    def rows(self) -> int:
        return sum(len(call[0]) for call in self.calls)


def batch(roles=EVERY, shape=(2, 3), dtype=torch.float32):
    count = len(roles)
    return torch.randn(count, *shape, dtype=dtype), torch.randn(count, *shape, dtype=dtype), torch.rand(count)


def prepared(roles=EVERY, options=FULL, student=None, seed=1, data=None, **settings):
    x, z, t = data or batch(roles)
    generator = torch.Generator().manual_seed(seed)
    return prepare_role_batch(x, z, t, roles, options, student or Recorder(), generator, **settings)


def losses_of(rows, prediction=None, options=FULL, student=None, teacher=None, seed=2, base=None, weights=None, turn=0):
    if prediction is None:
        prediction = torch.randn_like(rows.x_t)
    generator = torch.Generator().manual_seed(seed)
    fields, averages = student or Recorder(), teacher or Recorder()
    return compute_losses(
        rows, lambda: prediction, options, fields, averages, generator, base=base, weights=weights, turn=turn
    )


def only(rows, at):
    """These rows as a batch of their own."""
    tensors = {name: getattr(rows, name)[list(at)] for name in ("x", "z", "t", "r", "sign", "x_t", "velocity")}
    return RoleBatch(tuple(rows.roles[row] for row in at), **tensors)
