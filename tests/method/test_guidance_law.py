"""Guidance against known fields: what a network learns at r = t, data and base being Gaussian mixtures in the plane."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import nn

from simpletuner_twinflow.method.objective import ObjectiveSettings, training_step
from simpletuner_twinflow.method.roles import Role, RoleSampler
from simpletuner_twinflow.method.teacher import teacher_weights
from tests.method.oracles import GaussianFlow

MEANS = torch.tensor([[1.2, 0.8], [-0.4, 1.3], [-1.2, -0.6], [0.7, -1.2]])  # two to a prompt, in equal parts
STD, EMPTY, SCALE = 0.5, 2, 2.0  # EMPTY: the empty prompt, under which all four are drawn
SHARES = {Role.near: 2, Role.any_step: 1, Role.one_step: 1}
STEPS, ROWS, RATE, DECAY = 3000, 256, 6e-3, 0.99


def base(x_t, t, prompts):
    """E[z - x | x_t] of the mixture under each row's prompt, (n, 2)."""
    flow = GaussianFlow(0.0, STD)
    gaps = [x_t - (1 - t)[:, None] * mean for mean in MEANS]
    velocities = torch.stack([flow.velocity(gap, t) - mean for gap, mean in zip(gaps, MEANS, strict=True)], dim=1)
    chances = torch.stack([-gap.square().sum(dim=1) / (2 * flow.variance(t)) for gap in gaps], dim=1)
    possible = (prompts[:, None] == torch.tensor([0, 0, 1, 1])) | (prompts[:, None] == EMPTY)
    shares = chances.masked_fill(~possible, -torch.inf).softmax(dim=1)
    return (shares[..., None] * velocities).sum(dim=1)


class Network(nn.Module):
    """F of x, times, sign and prompt."""

    def __init__(self, width=128):
        super().__init__()
        self.waves, self.prompts = 2 ** torch.arange(6) * math.pi / 4, nn.Embedding(3, 16)
        layers = [nn.Linear(45, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x_t, t, r, sign, prompts):
        times = torch.stack([t, t - r], dim=1)
        angles = (times[..., None] * self.waves).flatten(1)
        return self.layers(torch.cat([x_t, times, sign[:, None], angles.sin(), angles.cos(), self.prompts(prompts)], 1))


def data(rows):
    """Samples (n, 2), their prompts, noise and times."""
    drawn = torch.randint(4, (rows,))
    return MEANS[drawn] + STD * torch.randn(rows, 2), drawn // 2, torch.randn(rows, 2), torch.rand(rows)


class Learnt(NamedTuple):
    """What is learnt: `B_u + scale (B_c - B_u)` by regression, and root mean squares of what is left of it."""

    scale: float
    left: float
    across: float  # the part at right angles to B_c - B_u


@cache
def learnt(**guidance):
    """Of the averaged weights of a network that is trained from nothing."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options, generator, network = ObjectiveSettings(role_shares=SHARES, **guidance), torch.Generator(), Network()
    generator.manual_seed(0)
    weights = list(network.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.99))
    sampler = RoleSampler(options.roles(), seed=0, rank=0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / STEPS)) / 2
        x, prompts, z, t = data(ROWS)

        def asked(condition, prompts=prompts):
            own = prompts[list(condition.rows)]
            return torch.full_like(own, EMPTY) if condition.unconditional else own

        def student(x_t, t, r, sign, condition, asked=asked):
            return network(x_t, t, r, sign, asked(condition))

        def teacher(*pass_, student=student):
            with teacher_weights(weights, averages):
                return student(*pass_)

        def frozen(x_t, t, r, sign, condition, asked=asked):
            return base(x_t, t, asked(condition))

        roles = sampler.sample(ROWS, step, ROWS)
        loss = training_step(x, z, t, roles, options, student, teacher, generator, base=frozen, turn=step).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        torch._foreach_lerp_(
            averages, [weight.detach() for weight in weights], 1 - min(DECAY, (1 + step) / (10 + step))
        )
    torch.set_num_threads(threads)

    x, prompts, z, t = data(20_000)
    x_t = x + t[:, None] * (z - x)
    unprompted = base(x_t, t, torch.full_like(prompts, EMPTY))
    direction = base(x_t, t, prompts) - unprompted
    with torch.no_grad(), teacher_weights(weights, averages):
        found = network(x_t, t, t, torch.ones_like(t), prompts) - unprompted
    scale = (found * direction).sum() / direction.square().sum()
    left, unit = found - scale * direction, nn.functional.normalize(direction, dim=1)
    across = left - (left * unit).sum(dim=1, keepdim=True) * unit
    return Learnt(scale.item(), left.square().mean().sqrt().item(), across.square().mean().sqrt().item())


def plain():
    return learnt(guidance_scale=1.0)


def test_without_guidance_the_bases_velocity_is_learnt():
    assert plain().scale == pytest.approx(1, abs=0.03)
    assert plain().left < 0.08  # B_c - B_u has a root mean square of 0.68


def test_against_the_base_its_guided_velocity_is_learnt_and_across_it_all_is_as_near_as_without():
    guided = learnt(guidance_scale=SCALE, guidance_reference="base")
    assert guided.scale - 1 == pytest.approx(SCALE - 1, rel=0.03)
    assert guided.left < 1.6 * plain().left
    assert guided.across < 1.5 * plain().across


def test_against_the_ema_the_velocity_drifts_off():
    """The empty prompt is never trained, so the difference of the two fields is anything."""
    assert learnt(guidance_scale=SCALE, guidance_reference="ema").left > 5 * plain().left
