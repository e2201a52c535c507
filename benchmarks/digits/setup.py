"""The problem: 8 x 8 digits, a small network pre-trained on them, few-step sampling, and how samples are judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from testbed.judge import CLASSES, PIXELS, Judge, fit_classifier, new_classifier

NO_LABEL = CLASSES  # stands for "no condition"
EMBED = 64
SAMPLES = 2000
BASE_STEPS = 6000

VelocityField = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`field(x, t, y)`: x (N, 64), t (N,) in [0, 1], y (N,) labels; the noise-ward velocity to walk along, (N, 64)."""

OnStep = Callable[[int], None]
"""Told the number of training steps made so far."""


def load_data() -> tuple[Tensor, Tensor]:
    """The 1,797 digits in [-1, 1], (N, 64), and their labels, (N,)."""
    digits = load_digits()
    return torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)


class Net(nn.Module):
    """Class-conditional residual perceptron with adaptive layer norm; it knows the time t only. Noise-ward velocity."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, EMBED), nn.SiLU(), nn.Linear(EMBED, EMBED))
        self.label = nn.Embedding(CLASSES + 1, EMBED)
        self.inp = nn.Linear(PIXELS, width)
        self.cond = nn.Linear(2 * EMBED, width)
        self.out = nn.Linear(width, PIXELS)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(width),
                    nn.Linear(width, 2 * width),
                    nn.Linear(2 * width, width),
                    nn.Linear(width, 2 * width),
                ]
            )
            for _ in range(4)
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor, time_term: Tensor | float = 0.0) -> Tensor:
        """The velocity at x (N, 64), t (N,), y (N,); `time_term` (N, EMBED) is added to the embedding of t."""
        time = self.time(time_features(t)) + time_term
        cond = F.silu(self.cond(torch.cat([time, self.label(y)], dim=1)))
        h = self.inp(x)
        for norm, up, down, modulate in self.blocks:
            scale, shift = modulate(cond).chunk(2, dim=1)
            h = h + down(F.silu(up(norm(h) * (1 + scale) + shift)))
        return self.out(h)


def time_features(t: Tensor) -> Tensor:
    """Cosines and sines of 1000 t at geometric frequencies: (N,) to (N, 64)."""
    angles = 1000 * t.view(-1, 1) * torch.exp(-math.log(10_000) * torch.arange(32) / 32)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def base_model(path: Path, on_step: OnStep = lambda step: None, steps: int = BASE_STEPS) -> Net:
    """The network every variant starts from; read from `path`, trained and put there if missing (about 4 minutes).

    Plain flow matching, 10 % of labels dropped, Adam 1e-3 decayed linearly, batch 256, seed 0.
    """
    return _cached(path, Net, lambda net: _train_base(net, on_step, steps))


def classifier(path: Path) -> nn.Sequential:
    """The perceptron 64-128-64-10 that judges samples; read from `path`, trained and put there if missing (seconds)."""
    return _cached(path, new_classifier, lambda net: fit_classifier(net, *load_data()))


def _cached[T: nn.Module](path: Path, build: Callable[[], T], train: Callable[[T], None]) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build()
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True))
        else:
            train(net)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            torch.save(net.state_dict(), unfinished)
            unfinished.replace(path)
    return net


def _train_base(net: Net, on_step: OnStep, steps: int) -> None:
    digits, labels = load_data()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(steps):
        rows = torch.randint(0, len(digits), (256,))
        x, y = digits[rows], labels[rows].clone()
        y[torch.rand(256) < 0.1] = NO_LABEL
        t, z = torch.rand(256, 1), torch.randn_like(x)
        loss = F.mse_loss(net(t * z + (1 - t) * x, t, y), z - x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps) + 1e-5
        on_step(step + 1)


@dataclass(frozen=True)
class Score:
    """How good samples are."""

    frechet: float  # Frechet distance to the real digits; nan if a sample is not finite
    agreement: float  # share that the classifier takes for the digit asked for
    diversity: float  # mean distance of two samples of a class, as a share of that among real digits


def judge(path: Path) -> Judge:
    """Compares samples with all real digits. Args: path: of the classifier, see `classifier`."""
    return Judge(classifier(path), *load_data())


def score(judge: Judge, x: Tensor, y: Tensor) -> Score:
    """Args: x: samples, (N, 64). y: the digits asked for, (N,)."""
    return Score(judge.frechet(x), judge.agreement(x, y), judge.diversity(x, y))


@torch.no_grad()
def few_step(
    field: VelocityField, times: tuple[float, ...], seed: int = 1, *, fresh_noise: bool = False
) -> tuple[Tensor, Tensor]:
    """2,000 samples and their labels by calls at these times, in Euler steps or with fresh noise between the calls."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        y, x = _labels(), torch.randn(SAMPLES, PIXELS)
        for t, following in zip(times, (*times[1:], 0.0), strict=True):
            velocity = field(x, torch.full((SAMPLES,), t), y)
            noise = torch.randn(SAMPLES, PIXELS) if fresh_noise else x + (1 - t) * velocity
            x = (1 - following) * (x - t * velocity) + following * noise
    return x, y


@torch.no_grad()
def euler(field: VelocityField, steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """2,000 samples and their labels along the ordinary velocity, r = t, in equal steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        y, x = _labels(), torch.randn(SAMPLES, PIXELS)
    grid = torch.linspace(1, 0, steps + 1)
    for t, following in pairwise(grid):
        x = x - (t - following) * field(x, t.expand(SAMPLES), y)
    return x, y


def _labels() -> Tensor:
    return torch.arange(CLASSES).repeat_interleave(SAMPLES // CLASSES)
