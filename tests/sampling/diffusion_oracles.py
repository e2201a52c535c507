"""Diffusion models that know everything about Gaussian data, and schedules to know it on."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from simpletuner_twinflow.method.flow import interpolate, per_sample
from tests.method.oracles import GaussianFlow

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = {
    "sdxl": DDPMScheduler(**SDXL).alphas_cumprod,
    "pixart": DDPMScheduler().alphas_cumprod,
    "kolors": DDPMScheduler(**SDXL | {"beta_end": 0.014}, num_train_timesteps=1100).alphas_cumprod,
    "cosine": DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod,
}
ZERO_SNR = DDPMScheduler(**SDXL, rescale_betas_zero_snr=True).alphas_cumprod
# What the host can train, by name: (schedule, prediction type).
MODELS = {f"{name} {kind}": (abar, kind) for name, abar in SCHEDULES.items() for kind in ("epsilon", "v_prediction")}
MODELS |= {f"zero snr {kind}": (ZERO_SNR, kind) for kind in ("epsilon", "v_prediction")}


@dataclass
class DiffusionOracle:
    """What an exactly trained model of this kind answers, from the textbook's formulas, not through the flow."""

    flow: GaussianFlow
    prediction_type: str

    def __call__(self, x: Tensor, abar: Tensor) -> Tensor:
        """E[eps | x] or E[v | x] for `x = sqrt(abar) x_0 + sqrt(1 - abar) eps`; abar is (B,)."""
        abar = per_sample(abar, like=x)
        surprise = (x - abar.sqrt() * self.flow.mean) / (abar * self.flow.std**2 + 1 - abar)
        eps = (1 - abar).sqrt() * surprise
        if self.prediction_type == "epsilon":
            return eps
        data = self.flow.mean + abar.sqrt() * self.flow.std**2 * surprise
        return abar.sqrt() * eps - (1 - abar).sqrt() * data


def prediction_for(prediction_type: str, average_velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The answer, asked at x_t, whose end points are those of this average velocity; t inside of the schedule."""
    t = per_sample(t, like=x_t)
    data, noise = x_t - t * average_velocity, x_t + (1 - t) * average_velocity
    if prediction_type == "epsilon":
        return noise
    return ((1 - t) * noise - t * data) / ((1 - t).square() + t.square()).sqrt()


def gaussian(dtype=torch.float64):
    """Data with a mean and a standard deviation of its own in each of 3 x 4 elements."""
    return GaussianFlow(
        mean=torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4), std=torch.linspace(0.3, 1.5, 12, dtype=dtype).view(3, 4)
    )


def on_the_path(flow, t):
    """Samples of the flow at the times t."""
    x = flow.mean + flow.std * torch.randn(len(t), 3, 4, dtype=t.dtype)
    return interpolate(x, torch.randn(len(t), 3, 4, dtype=t.dtype), t).x_t


def abar_of(sigma):
    """The textbook's abar of a flow time: (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2)."""
    return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)


def velocity_of(oracle, path, x_t, t):
    """What comes of asking an exact model at its own point and time."""
    point = path.point(x_t, t)
    return path.velocity(oracle(point.x, abar_of(path.sigma(point.time))), point.x, t)
