"""The UCGM sampler (arXiv:2505.07447) as the public TwinFlow code runs it, one step at a time.

`Solver` serves the schedulers, which a pipeline steps, and `sample`, which has the whole loop.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import AverageVelocity, Endpoints, at_least_float32, endpoints
from simpletuner_twinflow.sampling.schedule import SamplerSettings, SolverStep

Draw = Callable[[Tensor], Tensor]
"""`draw(like)`: standard normal noise of the shape, dtype and device of `like`."""


@dataclass(frozen=True)
class Solver:
    """The update `x' = (1 - t') x_hat + t' (sqrt(1 - s) z_hat + sqrt(s) noise)` to the next sigma t'."""

    fresh_share: float  # s, the share of the noise's variance that is drawn anew, in [0, 1]

    def step(self, step: SolverStep, x: Tensor, velocity: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """The sample after a step, and the step's clean estimate; both (B, ...).

        The last step returns the clean estimate, and draws no noise.

        Args:
            step: the one to make.
            x: the sample that the network was given, (B, ...).
            velocity: the network's average velocity there, (B, ...).
            draw: source of fresh noise, called if the share is above 0.
        """
        now = endpoints(x, velocity, x.new_full((1,), step.t))
        if step.t_next == 0:
            return now.x_hat, now.x_hat
        return self._renoised(now, x, step.t_next, draw), now.x_hat

    def step_tokens(self, t: Tensor, t_next: Tensor, x: Tensor, velocity: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """The same update with sigmas of each token's own; both (B, N, C).

        Args:
            t: sigma of each token, (B, N).
            t_next: sigma of each token afterwards, (B, N).
            x: the sample, (B, N, C).
            velocity: the network's average velocity, (B, N, C).
            draw: source of fresh noise, called in the last step too.
        """
        t, t_next = t.unsqueeze(-1), t_next.unsqueeze(-1)
        now = Endpoints(x_hat=x - t * velocity, z_hat=x + (1 - t) * velocity)
        return self._renoised(now, x, t_next, draw), now.x_hat

    def _renoised(self, now: Endpoints, x: Tensor, t_next: float | Tensor, draw: Draw) -> Tensor:
        noise, share = now.z_hat, self.fresh_share
        if share > 0:
            noise = math.sqrt(1 - share) * noise + math.sqrt(share) * draw(x)
        return (1 - t_next) * now.x_hat + t_next * noise


class DerivedNoise:
    """Fresh noise that is a function of the noise a run starts with, for callers that bring no generator.

    Each sample has a random stream of its own, seeded by its start noise and the seed. So the same start gives the same
    result in any batch, another start gives another, and no global random stream moves. Drawn on the CPU in float32, so
    that all devices and dtypes agree.
    """

    def __init__(self, start: Tensor, seed: int = 0) -> None:
        """Args: start: the start noise, (B, ...). seed: gives other noise for the same start."""
        samples = start.detach().to("cpu", torch.float32).contiguous().numpy()
        self._keys = [hashlib.blake2b(row.tobytes(), digest_size=32, salt=_bytes(seed)).digest() for row in samples]
        self._drawn = 0

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of this shape, dtype and device. Raises: TwinFlowError: its batch is not of the start's size."""
        if like.shape[0] != len(self._keys):
            raise TwinFlowError(f"The run began with {len(self._keys)} samples and now has {like.shape[0]}.")
        self._drawn += 1
        noise = [
            torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(self._seed_of(key)))
            for key in self._keys
        ]
        return torch.stack(noise).to(like)

    def _seed_of(self, key: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(_bytes(self._drawn), key=key, digest_size=7).digest())


def _bytes(number: int) -> bytes:
    return number.to_bytes(16, "big", signed=True)


@torch.no_grad()
def sample(
    predict: AverageVelocity, noise: Tensor, steps: int, settings: SamplerSettings, draw: Draw | None = None
) -> Tensor:
    """Sample with a plain average velocity, without a pipeline.

    Args:
        predict: F(x, t, r) with t and r of shape (B,).
        noise: start noise, (B, ...). The result has its dtype; the state between steps is float64.
        steps: number of network calls.
        settings: of the sampler.
        draw: source of fresh noise; by default `DerivedNoise` of the start noise.
    """
    x, solver = noise.to(working_dtype(noise.device)), Solver(settings.stochastic_ratio)
    draw = draw or DerivedNoise(noise)
    like = at_least_float32(noise)
    for step in settings.steps(steps):
        t, r = (like.new_full(noise.shape[:1], time) for time in (step.t, step.r))
        x, _ = solver.step(step, x, predict(x.to(noise.dtype), t, r).to(x), draw)
    return x.to(noise.dtype)


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on the devices that have none."""
    return torch.float32 if device.type in ("mps", "npu") else torch.float64
