"""The few-step sampler for epsilon and v models, as a diffusers scheduler."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.sampling.base import (
    TIMESTEP_TOLERANCE,
    FewStepScheduler,
    Generators,
    TwinFlowSchedulerOutput,
)
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state, noisy_sample
from simpletuner_twinflow.sampling.schedule import SamplerSettings, SolverStep, Style

_DEFAULTS = SamplerSettings()


class TwinFlowDiffusionScheduler(FewStepScheduler):
    """Few-step sampling for TwinFlow models that predict epsilon or v, in place of a pipeline's scheduler.

    Samples, timesteps and predictions are those of the diffusion model, as with `DDIMScheduler`; the solver between
    them is `TwinFlowScheduler`'s, in flow coordinates. It takes over from any stock scheduler:
    `pipeline.scheduler = TwinFlowDiffusionScheduler.from_config(pipeline.scheduler.config)` keeps the noise schedule
    and the kind of prediction. Sigmas above the model's last time share that time, so that two entries of `timesteps`
    can be equal. Fresh noise comes from the generator given to `step`, or is a function of the start noise.

    Args:
        num_train_timesteps: T; this and the following up to prediction_type as in `DDPMScheduler`.
        beta_start: see above.
        beta_end: see above.
        beta_schedule: see above.
        trained_betas: see above.
        rescale_betas_zero_snr: see above.
        prediction_type: "epsilon" or "v_prediction".
        style: see `SamplerSettings`.
        stochastic_ratio: None for automatic: 1 for "few", as the stock LCMScheduler draws, and 0 for the others.
        flow_sigma_max: the settings' sigma_max, under a name that stock schedulers do not use for something else.
        flow_sigma_min: the settings' sigma_min.
        seed: of the noise drawn where no generator is given.

    Raises:
        TwinFlowConfigError: a setting is out of its range, or the prediction type is another.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012 - diffusers' contract

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        style: Style = _DEFAULTS.style,
        stochastic_ratio: float | None = None,
        flow_sigma_max: float | None = _DEFAULTS.sigma_max,
        flow_sigma_min: float | None = _DEFAULTS.sigma_min,
        seed: int = 0,
    ) -> None:
        self.alphas_cumprod = DDPMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        ).alphas_cumprod
        self.path = DiffusionPath(self.alphas_cumprod, prediction_type)
        self.set_timesteps(1)

    @classmethod
    def from_config(  # type: ignore[override]  # a configuration is needed
        cls, config: Mapping[str, Any], **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """As of any scheduler, but another class's defaults are taken too: the model was trained with them.

        Raises:
            TwinFlowConfigError: the configuration has no noise schedule, as that of a flow-matching scheduler.
        """
        given = complete(config)
        if not {"beta_schedule", "trained_betas"} & {*given, *kwargs} or given.get("use_flow_sigmas", False):
            raise TwinFlowConfigError(
                "the configuration has no noise schedule of a diffusion model (beta_schedule is missing, or "
                "use_flow_sigmas is true): for a flow use TwinFlowScheduler.from_config."
            )
        return super().from_config(given, **kwargs)

    @property
    def settings(self) -> SamplerSettings:
        """The sampler's settings, in flow coordinates."""
        style, ratio = self.config["style"], self.config["stochastic_ratio"]
        return SamplerSettings(
            style=style,
            stochastic_ratio=(1.0 if style == "few" else 0.0) if ratio is None else ratio,
            sigma_max=self.config["flow_sigma_max"],
            sigma_min=self.config["flow_sigma_min"],
        )

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline multiplies noise with, so that the run starts in pure noise in flow coordinates."""
        return float(noisy_sample(torch.ones(1), self.flow_sigmas[:1].cpu()))

    def _lay_out(self) -> None:
        self.timesteps = self.path.time(self.flow_sigmas[:-1])

    def _to_flow(self, sample: Tensor, sigma: Tensor) -> Tensor:
        return flow_state(sample, sigma)

    def _from_flow(self, x: Tensor, sigma: Tensor) -> Tensor:
        return noisy_sample(x, sigma)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy samples `a x + s z` at the model's times, (B, ...).

        In a run that begins in the middle, the timestep of that step means its sigma, which may lie above that of the
        model's last time.
        """
        sigma = self.path.sigma(timesteps.to(original_samples.device))
        if self.begin_index is not None:
            first, begin = self.timesteps[self.begin_index].to(sigma), self.flow_sigmas[self.begin_index].to(sigma)
            near = (timesteps.to(first) - first).abs() < TIMESTEP_TOLERANCE * self.config["num_train_timesteps"]
            sigma = torch.where(near, begin, sigma)
        t = sigma.reshape(-1, *[1] * (original_samples.ndim - 1))
        noisy = noisy_sample((1 - t) * original_samples + t * noise, sigma)
        return noisy.to(original_samples.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """The sample after one call of the network; the steps of a run follow one another.

        Args:
            model_output: epsilon or v, (B, ...).
            timestep: one of `timesteps`; only the first of a run is looked up.
            sample: what the network was given, (B, ...).
            generator: source of fresh noise, one for all samples or one for each; None: see the class.
            return_dict: whether to return a `TwinFlowSchedulerOutput` rather than a tuple.

        Raises:
            TwinFlowError: the run is over, the timestep is not on the schedule, or the generators are not as many as
                the samples.
        """

        def update(step: SolverStep, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            velocity = self.path.velocity(model_output, sample, sigma).to(x)
            return self._solver.step(step, x, velocity, partial(self._fresh_noise, generator=generator))

        return self._make_step(timestep, sample, return_dict, update)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration from which `from_config` of another class takes every value.

    diffusers marks those that were left at their defaults, to have the other class use its own.
    """
    return {name: value for name, value in config.items() if not name.startswith("_")}
