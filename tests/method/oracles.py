"""Flows whose answers are known in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simpletuner_twinflow.method.flow import per_sample


@dataclass
class StraightFlow:
    """Every sample moves on a straight line: F is the velocity z - x itself, whatever the times."""

    x: Tensor  # (B, ...)
    z: Tensor  # (B, ...)

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.z - self.x

    def average_velocity(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.z - self.x


@dataclass
class GaussianFlow:
    """Data N(mean, std^2) in every element and standard normal noise: the flow map between two times is affine."""

    mean: float | Tensor
    std: float | Tensor

    def variance(self, t: Tensor) -> Tensor:
        return ((1 - t) * self.std) ** 2 + t**2

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[z - x | x_t], the field that flow matching learns."""
        return self.average_velocity(x_t, t, t)

    def average_velocity(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """(x_t - x_r) / (t - r), with the division done on paper so that r = t is nothing special."""
        t, r = per_sample(t, like=x_t), per_sample(r, like=x_t)
        slope = (t + r) - self.std**2 * (2 - t - r)
        shrink = (self.variance(r) / self.variance(t)).sqrt()
        return -self.mean + slope / (self.variance(t) * (1 + shrink)) * (x_t - (1 - t) * self.mean)

    def flow_map(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Where the sample at time t is at time r: the affine map that takes one marginal to the other."""
        t, r = per_sample(t, like=x_t), per_sample(r, like=x_t)
        shrink = (self.variance(r) / self.variance(t)).sqrt()
        return (1 - r) * self.mean + shrink * (x_t - (1 - t) * self.mean)

    def ends_given(self, x_t: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise that meet at x_t: the posterior's mean plus eps standard deviations; t above 0."""
        t = per_sample(t, like=x_t)
        gain = (1 - t) * self.std**2 / self.variance(t)
        x = self.mean + gain * (x_t - (1 - t) * self.mean) + eps * self.std * t / self.variance(t).sqrt()
        return x, (x_t - (1 - t) * x) / t


def times(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)
