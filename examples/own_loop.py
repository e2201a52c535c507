"""TwinFlow in a training loop of your own, without SimpleTuner: a small network learns to draw a ring in one step.

python examples/own_loop.py  (some twenty seconds on a CPU)
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, training_step
from simpletuner_twinflow.method.roles import Role, RoleSampler
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import sample

SAMPLER, BATCH = SamplerSettings(), 256
PLAIN = ObjectiveSettings(enhanced_ratio=0.0, role_shares={Role.near: 1.0})  # r = t only, which is flow matching
FULL = ObjectiveSettings(enhanced_ratio=0.0, adversarial_enabled=True)


class Network(nn.Module):
    """The average velocity F(x_t, t, r) of points in the plane; at sign -1, that of the network's own samples."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.SiLU())]
        self.layers = nn.Sequential(nn.Linear(5, width), nn.SiLU(), *hidden, nn.Linear(width, 2))

    def forward(self, x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor, prompts: PromptRows | None = None) -> Tensor:
        """x_t is (n, 2), the others (n,); a conditional network takes the prompts of `prompts.rows`."""
        return self.layers(torch.cat([x_t, torch.stack([t, r, sign], dim=1)], dim=1))


def ring(count: int) -> Tensor:
    """The data: points at distance 1 from the origin, (count, 2)."""
    angle = 2 * math.pi * torch.rand(count)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def train(start: nn.Module, options: ObjectiveSettings, iterations: int) -> nn.Module:
    """A trained copy of a network, with averaged weights."""
    student = deepcopy(start)
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    roles, generator = RoleSampler(options.roles(), seed=0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    for step in range(iterations):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / iterations)
        x, z, t = ring(BATCH), torch.randn(BATCH, 2), torch.rand(BATCH)
        rows, step_times = roles.sample(BATCH, step, BATCH), SAMPLER.step_times(1)
        losses = training_step(x, z, t, rows, options, student, teacher, generator, step_times=step_times)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        teacher.update_parameters(student)
    return teacher.module


def draw(network: nn.Module, count: int, steps: int) -> Tensor:
    """Samples, (count, 2), in this many calls of the network."""
    return sample(lambda x, t, r: network(x, t, r, torch.ones_like(t)), torch.randn(count, 2), steps, SAMPLER)


def main(iterations: int = 800) -> tuple[nn.Module, nn.Module]:
    """A base model, trained by flow matching, and what TwinFlow makes of it."""
    base = train(Network(), PLAIN, iterations)
    return base, train(base, FULL, iterations)


if __name__ == "__main__":
    torch.set_num_threads(1)  # enough for a network this small, and far faster where other programs run
    torch.manual_seed(0)
    for name, network in zip(("flow matching", "TwinFlow"), main(), strict=True):
        distances = [(draw(network, 2000, steps).norm(dim=1) - 1).abs().mean() for steps in (1, 2, 4)]
        print(f"{name}: distance to the ring after 1, 2, 4 steps:", *(f"{distance:.3f}" for distance in distances))
