"""The few-step sampler for flow-matching models, as a diffusers scheduler."""

import math
from dataclasses import fields
from functools import partial
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.base import (
    TIMESTEP_TOLERANCE,
    FewStepScheduler,
    Generators,
    TwinFlowSchedulerOutput,
)
from simpletuner_twinflow.sampling.schedule import SamplerSettings, SolverStep, Style

_DEFAULTS = SamplerSettings()
_SETTINGS = tuple(field.name for field in fields(SamplerSettings))
_OURS = "time_unit"  # in every configuration that TwinFlowScheduler writes, and in no other scheduler's
_FLOW_PREDICTIONS = ("flow_matching", "flow_prediction")


class TwinFlowScheduler(FewStepScheduler, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # wider attributes
    """Few-step sampling for TwinFlow models, in place of any pipeline's flow-matching scheduler.

    It is a `FlowMatchEulerDiscreteScheduler` because pipelines ask for one, but it keeps to the sigmas that the model
    was trained for. Of sigmas or timesteps passed to `set_timesteps` only the number counts, and a resolution-dependent
    `mu` changes nothing. A `shift` other than 1 moves the sigmas, in sampling and in `step_times` alike; `from_config`
    takes it from a configuration of this class only.

    Fresh noise comes from the generator given to `step`. Most pipelines give none; then it is a function of the noise
    that the run starts with and of `seed`, sample by sample, and the global random stream is never touched.

    Args:
        num_train_timesteps: what a pipeline multiplies sigmas with.
        prediction_type: "flow_matching", the only one.
        invert_sigmas: as of the stock scheduler, for pipelines whose time is 1 at the data: `sigmas` are 1 - sigma and
            end in 1, `timesteps` follow them, and `step` takes the velocity from noise to data.
        shift: see `SamplerSettings`, as the following up to time_unit.
        style: "few", "any" or "multi".
        stochastic_ratio: 0 for an ODE.
        sigma_max: first sigma; None for automatic.
        sigma_min: last sigma above zero; None for automatic.
        time_dtype: dtype in which the network was given its time in training.
        time_unit: the network's time at pure noise, 1 or 1000.
        seed: of the noise drawn where no generator is given.
        use_dynamic_shifting: this and the following are for pipelines that work out a `mu`; none is used here.
        base_shift: see above.
        max_shift: see above.
        base_image_seq_len: see above.
        max_image_seq_len: see above.

    Raises:
        TwinFlowConfigError: a setting is out of its range, or the prediction type is another.
    """

    init_noise_sigma = 1.0

    # The parent's __init__ would add its own schedule's options to the config, where they would be without effect.
    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "flow_matching",
        invert_sigmas: bool = False,
        shift: float = _DEFAULTS.shift,
        style: Style = _DEFAULTS.style,
        stochastic_ratio: float = _DEFAULTS.stochastic_ratio,
        sigma_max: float | None = _DEFAULTS.sigma_max,
        sigma_min: float | None = _DEFAULTS.sigma_min,
        time_dtype: str = _DEFAULTS.time_dtype,
        time_unit: int = _DEFAULTS.time_unit,
        seed: int = 0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
    ) -> None:
        if prediction_type != "flow_matching":
            raise TwinFlowConfigError(f"prediction_type is {prediction_type!r}; TwinFlow samples 'flow_matching' only.")
        self._shift = shift
        self.set_timesteps(1)

    @classmethod
    def from_config(  # type: ignore[override]  # a configuration is needed
        cls, config: dict[str, Any], **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Take over from another scheduler: `TwinFlowScheduler.from_config(pipeline.scheduler.config)`.

        Of a configuration of this class every setting is taken. Of any other only what a pipeline reads: the number and
        direction of its timesteps. Its shift and spacing stay behind, since the model was trained for our sigmas.

        Args:
            config: of any flow-matching scheduler.
            kwargs: settings that replace those of the configuration, a `shift` too.

        Raises:
            TwinFlowConfigError: the configuration is of a model that predicts something else than a flow.
        """
        if _OURS not in config:
            prediction = config.get("prediction_type", "flow_matching")
            if prediction not in _FLOW_PREDICTIONS and not config.get("use_flow_sigmas", False):
                raise TwinFlowConfigError(
                    f"prediction_type is {prediction!r}; TwinFlow samples 'flow_matching' only. For a model that "
                    "predicts epsilon or v use TwinFlowDiffusionScheduler.from_config."
                )
            config = {key: value for key, value in config.items() if key not in (*_SETTINGS, "seed", "prediction_type")}
        return super().from_config(config, **kwargs)

    @property
    def settings(self) -> SamplerSettings:
        """The sampler's settings, with the shift that is set now."""
        return SamplerSettings(**{name: self.config[name] for name in _SETTINGS} | {"shift": self.shift})

    def _lay_out(self) -> None:
        self.sigma_max, self.sigma_min = self._steps[0].t, self._steps[-1].t
        scale = self.config["num_train_timesteps"]
        if self.config["invert_sigmas"]:
            self.sigmas = 1 - self.flow_sigmas
            self.timesteps = self.sigmas[:-1] * scale
        else:
            self.sigmas = self.flow_sigmas
            self.timesteps = self.sigmas.new_tensor([step.t * scale for step in self._steps])

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        """Clean samples (B, ...) with noise added, at timesteps of the schedule, (B,)."""
        if self.config["invert_sigmas"]:  # the parent takes `sigmas` for the share of noise
            sample, noise = noise, sample
        return super().scale_noise(sample, timestep, noise)  # type: ignore[arg-type]  # it asks for FloatTensor

    def time_shift(self, mu: float, sigma: float, t: Tensor) -> Tensor:
        """The parent's exponential shift of the times t, for pipelines that ask; it moves none of our sigmas."""
        return self._time_shift_exponential(mu, sigma, t)

    def stretch_shift_to_terminal(self, t: Tensor) -> Tensor:
        """The times unchanged, for pipelines that ask: our last sigma is a setting, `sigma_min`."""
        return t

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
        generator: Generators = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """The sample after one call of the network; the steps of a run follow one another.

        Args:
            model_output: the network's average velocity, (B, ...): from data to noise, or from noise to data with
                `invert_sigmas` or `per_token_timesteps`, as the parent takes it there.
            timestep: one of `timesteps`; only the first of a run is looked up.
            sample: (B, ...).
            s_churn: must keep its default, as the three following: the parent ignores them.
            s_tmin: see above.
            s_tmax: see above.
            s_noise: see above.
            generator: source of fresh noise, one for all samples or one for each; None: see the class.
            per_token_timesteps: (B, N) for a sample (B, N, C) whose tokens have timesteps of their own, such as those
                of a conditioning image. Each goes on to the next sigma of the schedule below its own.
            return_dict: whether to return a `TwinFlowSchedulerOutput` rather than a tuple.

        Raises:
            TwinFlowError: the run is over, the timestep is not on the schedule, the generators are not as many as the
                samples, or an argument has a value that this sampler has no use for.
        """
        if (s_churn, s_tmin, s_tmax, s_noise) != (0.0, 0.0, math.inf, 1.0):
            raise TwinFlowError(
                f"s_churn, s_tmin, s_tmax, s_noise are {(s_churn, s_tmin, s_tmax, s_noise)}; this sampler has no "
                "churn: leave them out. stochastic_ratio is its share of fresh noise."
            )
        to_data = self.config["invert_sigmas"] or per_token_timesteps is not None

        def update(step: SolverStep, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            velocity = (-model_output if to_data else model_output).to(x)
            draw = partial(self._fresh_noise, generator=generator)
            if per_token_timesteps is None:
                return self._solver.step(step, x, velocity, draw)
            return self._solver.step_tokens(*self._token_sigmas(per_token_timesteps.to(x), step.t), x, velocity, draw)

        return self._make_step(timestep, sample, return_dict, update)

    def _token_sigmas(self, timesteps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Sigma of each token now, and the next below it on the schedule; (B, N) each."""
        now = timesteps / self.config["num_train_timesteps"]
        if self.config["invert_sigmas"]:
            now = 1 - now
        now = torch.where((now - sigma).abs() <= TIMESTEP_TOLERANCE, sigma, now)  # the step's own, rounded
        schedule = now.new_tensor([*(step.t for step in self._steps), 0.0])
        return now, torch.where(schedule < now.unsqueeze(-1) - 1e-6, schedule, 0.0).amax(dim=-1)
