"""How the target time reaches a network that was pre-trained on one time only."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FEATURES = 256


class TargetTimeEmbedding(nn.Module):
    """r E(t - r), added to a network's own embedding of the time t.

    E starts at zero, so training starts from the pre-trained network; the factor r makes the term vanish at r = 0, so a
    few-step model needs none of these weights (method.md, "e(t) + r E(t - r)").
    """

    def __init__(self, dim: int) -> None:
        """Args: dim: width of the time embedding it is added to."""
        super().__init__()
        self.linear_1 = nn.Linear(FEATURES, dim)
        self.linear_2 = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        """The term for times t and target times r, both (B,) in [0, 1], r <= t: (B, dim)."""
        features = sinusoidal_features(t - r).to(self.linear_1.weight.dtype)
        embedding = self.linear_2(nn.functional.silu(self.linear_1(features)))
        return r.unsqueeze(1).to(embedding.dtype) * embedding


def sinusoidal_features(t: Tensor) -> Tensor:
    """Cosines and sines of 1000 t at geometric frequencies, in float32: (B,) -> (B, FEATURES)."""
    half = FEATURES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = 1000 * t.float().unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeConditioning:
    """Adds the target time to the output of a network's time embedding while a pass of ours is running.

    Outside of `times(...)` - in validation, in the host's own passes - the hook leaves the network as it is.
    """

    def __init__(self, time_embedding: nn.Module, owner: nn.Module, name: str) -> None:
        """Attach to `time_embedding`; the weights live at `owner.name`."""
        self._owner, self._name = owner, name
        self._times: tuple[Tensor, Tensor] | None = None
        self.handle = time_embedding.register_forward_hook(self._add_target_time)

    def _add_target_time(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if self._times is None:
            return None
        t, r = self._times
        return output + getattr(self._owner, self._name)(t, r).to(output.dtype)

    @contextmanager
    def times(self, t: Tensor, r: Tensor) -> Iterator[None]:
        """Run the network's passes in this block with time t and target time r, both (B,) in [0, 1]."""
        previous, self._times = self._times, (t, r)
        try:
            yield
        finally:
            self._times = previous
