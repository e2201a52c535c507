"""Features of latents by a fixed random network, and the latents themselves standardised.

Random features see structure, which distances of raw latents hardly do: a blur that moves each sample by a fifth of its
way to the mean is seen by 100 of them in 6 standard deviations against 2 (random convolutional features as in Saxe et
al. 2011; measured on digits in `tests/quality`).
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

FEATURES = 1024
HIDDEN = 64
_GRID = 2  # cells along each axis that are pooled apart
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of data by channel, (1, C, 1, ...) in float32."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, data: Tensor) -> "Scale":
        """Args: data: latents, (N, C, ...)."""
        axes = tuple(axis for axis in range(data.ndim) if axis != 1)
        values = data.float()
        std = values.std(dim=axes, keepdim=True, correction=0)
        return cls(values.mean(dim=axes, keepdim=True), std.clamp(min=1e-6))

    def __call__(self, x: Tensor) -> Tensor:
        """Latents in units of the data, float32."""
        return (x.float() - self.mean) / self.std


def random_features(x: Tensor) -> Tensor:
    """Features of standardised latents, (N, C, *axes) with one to three axes -> (N, 1024); the same everywhere."""
    axes = x.ndim - 2
    if axes not in _CONVOLUTIONS:
        return random_features(x.flatten(2))
    first, second = (weight.to(x.device) for weight in _weights(x.shape[1], axes))
    convolve = _CONVOLUTIONS[axes]
    hidden = F.relu(convolve(x, first, padding=1))
    wide = F.relu(convolve(hidden, second, padding=1, stride=2))
    return _POOLS[axes](wide, _GRID).flatten(1)


@cache
def _weights(channels: int, axes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    kernel = (3,) * axes

    def weight(out: int, into: int) -> Tensor:
        drawn = torch.randn(out, into, *kernel, generator=generator)
        return drawn * (2 / (into * 3**axes)) ** 0.5

    return weight(HIDDEN, channels), weight(FEATURES // _GRID**axes, HIDDEN)
