"""The few-step sampler for epsilon and v models, as a diffusers scheduler."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state, noisy_sample
from simpletuner_twinflow.sampling.scheduler import TwinFlowScheduler, TwinFlowSchedulerOutput
from simpletuner_twinflow.sampling.solver import working_dtype

_TIMESTEP_TOLERANCE = 0.004  # of the model's range: pipelines hand a timestep back in the model's dtype


class TwinFlowDiffusionScheduler(SchedulerMixin, ConfigMixin):
    """Few-step sampling for TwinFlow models that predict epsilon or v, in the place of a pipeline's scheduler.

    Samples, timesteps and predictions are those of the diffusion model, as with `DDIMScheduler`; the walk in between is
    `TwinFlowScheduler`'s, in flow coordinates and float64. It takes over from any stock scheduler:
    `pipeline.scheduler = TwinFlowDiffusionScheduler.from_config(pipeline.scheduler.config)` keeps the noise schedule
    and the kind of prediction. Levels above the model's last time share that time; two entries of `timesteps` can be
    equal. Fresh noise comes from the generator given to `step`, or follows from the start noise.

    Args:
        num_train_timesteps: T; this and the following up to prediction_type as in `DDPMScheduler`.
        beta_start: see above.
        beta_end: see above.
        beta_schedule: see above.
        trained_betas: see above.
        rescale_betas_zero_snr: see above.
        prediction_type: "epsilon" or "v_prediction".
        style: see `SamplerSettings`, as are stochastic_ratio, extrapolation and kumaraswamy.
        stochastic_ratio: see above.
        extrapolation: see above.
        kumaraswamy: see above.
        level_max: the settings' sigma_max, under a name that stock schedulers do not use for something else.
        level_min: the settings' sigma_min.
        seed: of the noise drawn where no generator is given.

    Raises:
        TwinFlowConfigError: if a setting is out of its range, or the prediction type another.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]  # noqa: RUF012 - diffusers' contract
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        style: str = "few",
        stochastic_ratio: float | None = None,
        extrapolation: float = 0.0,
        kumaraswamy: Sequence[float] = (1.0, 1.0, 1.0),
        level_max: float = 0.999,
        level_min: float | None = None,
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
        self._flow = TwinFlowScheduler(
            style=style,
            stochastic_ratio=stochastic_ratio,
            extrapolation=extrapolation,
            kumaraswamy=kumaraswamy,
            sigma_max=level_max,
            sigma_min=level_min,
            seed=seed,
        )
        self.set_timesteps(1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> Self | tuple[Self, dict[str, Any]]:
        """As of any scheduler, but what another one had by default counts: the model was trained with it.

        Raises:
            TwinFlowConfigError: if the configuration has no noise schedule, as that of a flow-matching scheduler.
        """
        config = complete(config)
        if not {"beta_schedule", "trained_betas"} & {*config, *kwargs} or config.get("use_flow_sigmas", False):
            raise TwinFlowConfigError(
                "the configuration has no noise schedule of a diffusion model (beta_schedule is missing, or "
                "use_flow_sigmas is true): for a flow use TwinFlowScheduler.from_config."
            )
        return super().from_config(config, **kwargs)

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline multiplies noise with, so that in flow coordinates the walk starts in noise exactly."""
        return float(noisy_sample(torch.ones(1), self.levels[:1].cpu()))

    @property
    def levels(self) -> Tensor:
        """The flow's times of the network calls, and the 0 at the end: (steps + 1,)."""
        return self._flow.sigmas

    @property
    def target_times(self) -> Tensor:
        """The flow's target time r that the network is to be given at each of `timesteps`."""
        return self._flow.target_times

    @property
    def step_index(self) -> int | None:
        """The number of the next step; None before the first."""
        return self._flow.step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the first step where a pipeline has set one."""
        return self._flow.begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at this step, as image-to-image pipelines do."""
        self._flow.set_begin_index(begin_index)

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The flow's times at which sampling in this many steps calls the network, for training to aim at."""
        return self._flow.step_times(steps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        **kwargs: object,
    ) -> None:
        """Lay out the schedule and begin a new run.

        Args:
            num_inference_steps: number of network calls; may be left out where timesteps or sigmas say it.
            device: of `timesteps`.
            timesteps: their number counts, their values do not.
            sigmas: as timesteps.
            kwargs: accepted from pipelines; of no effect.

        Raises:
            TwinFlowError: if the number of steps is missing, or given twice and differently.
        """
        self._flow.set_timesteps(num_inference_steps, device, sigmas=sigmas, timesteps=timesteps)
        self.num_inference_steps = self._flow.num_inference_steps
        self.timesteps = self.path.time(self._flow.sigmas[:-1])
        self._state: Tensor | None = None
        self._given: Tensor | None = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample unchanged: it is the model's own already."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy samples `a x + s z` at the model's times, (B, ...).

        In a run that begins in the middle, the timestep of that step stands for its level, which above the model's last
        time is a level of its own.
        """
        sigma = self.path.sigma(timesteps.to(original_samples.device))
        if self.begin_index is not None:
            first, level = self.timesteps[self.begin_index].to(sigma), self._flow.sigmas[self.begin_index].to(sigma)
            sigma = torch.where((timesteps.to(first) - first).abs() < self._tolerance, level, sigma)
        t = sigma.reshape(-1, *[1] * (original_samples.ndim - 1))
        noisy = noisy_sample((1 - t) * original_samples + t * noise, sigma)
        return noisy.to(original_samples.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """The sample after one call of the network; the steps of a run follow one another.

        Args:
            model_output: epsilon or v, (B, ...).
            timestep: one of `timesteps`; it is looked up in the first step of a run only.
            sample: what the network was given, (B, ...).
            generator: source of fresh noise, one for all samples or one for each; None, see the class.
            return_dict: whether to return a `TwinFlowSchedulerOutput` rather than a tuple.

        Raises:
            TwinFlowError: if the run is over, the timestep is not on the schedule, or there are not as many generators
                as samples.
        """
        if self.step_index is None and self.begin_index is None:
            self.set_begin_index(self.index_for_timestep(timestep))
        index = self.begin_index if self.step_index is None else self.step_index
        if index >= self.num_inference_steps:
            raise TwinFlowError(
                f"All {self.num_inference_steps} steps have been made: call set_timesteps to begin a new run."
            )
        now, following = (self.levels[place].to(sample.device).expand(len(sample)) for place in (index, index + 1))
        velocity = self.path.velocity(model_output, sample, now)
        state = self._precise(sample, now)
        output = self._flow.step(velocity, self._flow.timesteps[index], state, generator=generator)
        self._state = output.prev_sample
        self._given = noisy_sample(output.prev_sample, following).to(sample.dtype)
        if not return_dict:
            return (self._given,)
        clean = output.pred_original_sample.to(sample.dtype)
        return TwinFlowSchedulerOutput(prev_sample=self._given, pred_original_sample=clean)

    def index_for_timestep(self, timestep: float | Tensor) -> int:
        """The place of a timestep in the schedule, allowing for one that went through bf16; of equal ones the first.

        Raises:
            TwinFlowError: if the timestep is not on the schedule.
        """
        schedule, wanted = self.timesteps.tolist(), float(timestep)
        place = min(range(len(schedule)), key=lambda index: abs(schedule[index] - wanted))
        if abs(schedule[place] - wanted) > self._tolerance:
            raise TwinFlowError(f"Timestep {wanted:g} is not on the schedule {schedule}: pass one of `timesteps`.")
        return place

    @property
    def _tolerance(self) -> float:
        return _TIMESTEP_TOLERANCE * self.config.num_train_timesteps

    def _precise(self, sample: Tensor, t: Tensor) -> Tensor:
        """The flow's state in full precision: the one the sample was rounded from, unless a pipeline has changed it."""
        given = self._given
        comparable = given is not None and given.shape == sample.shape and given.device == sample.device
        if comparable and torch.equal(given, sample):
            return self._state
        return flow_state(sample.to(working_dtype(sample.device)), t)

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration from which `from_config` of another class takes every value.

    diffusers marks those that were left at their defaults, to have the other class use its own.
    """
    return {name: value for name, value in config.items() if not name.startswith("_")}
