"""Diffusion models that know everything about Gaussian data, and schedules to know it on."""

from dataclasses import dataclass

from diffusers import DDPMScheduler
from torch import Tensor

from simpletuner_twinflow.method.flow import per_sample
from tests.method.oracles import GaussianFlow

_SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = {
    "sdxl": DDPMScheduler(**_SDXL).alphas_cumprod,
    "pixart": DDPMScheduler().alphas_cumprod,
    "kolors": DDPMScheduler(**_SDXL | {"beta_end": 0.014}, num_train_timesteps=1100).alphas_cumprod,
    "cosine": DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod,
}
ZERO_SNR = DDPMScheduler(**_SDXL, rescale_betas_zero_snr=True).alphas_cumprod
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
