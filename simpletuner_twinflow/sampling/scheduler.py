"""The UCGM sampler as a diffusers scheduler."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import DerivedNoise, Walk, working_dtype

# Pipelines hand back a timestep in the model's dtype: in bf16, 999 comes back as 1000 and 832.7 as 832.
_TIMESTEP_TOLERANCE = 0.004
# What decides levels and noise; others' schedulers have some of these names for settings of their own.
_LEVELS = ("shift", "style", "solver_order", "kumaraswamy", "sigma_max", "sigma_min")
_SETTINGS = frozenset((*_LEVELS, "stochastic_ratio", "extrapolation", "seed", "prediction_type"))
_OURS = "kumaraswamy"  # in every configuration that one of our schedulers wrote, and in nobody else's
_FLOW_PREDICTIONS = ("flow_matching", "flow_prediction")


@dataclass
class TwinFlowSchedulerOutput(BaseOutput):
    """What a step came to, both of the sample's shape and dtype."""

    prev_sample: Tensor  # the sample to go on from
    pred_original_sample: Tensor  # the clean estimate of this step


class TwinFlowScheduler(FlowMatchEulerDiscreteScheduler):
    """Few-step sampling for TwinFlow models, in the place of any pipeline's flow-matching scheduler.

    It is a `FlowMatchEulerDiscreteScheduler` because pipelines ask for one, but it keeps to the levels the model was
    trained for: of sigmas or timesteps passed to `set_timesteps` only their number counts, and a resolution-dependent
    `mu` changes nothing. A `shift` other than 1 does move the levels, in sampling and in `step_times` alike; it comes
    from you or from a configuration of ours, never from the scheduler that it takes over from (`from_config`).

    One entry of `timesteps` is one call of the network, so `order` is 1 also when `solver_order` is 2; the corrections
    then have entries of their own. The state between steps is float64 (float32 where a device has none).

    Fresh noise comes from the generator given to `step`. Most pipelines give none; then it follows from the noise that
    the run starts with, sample by sample: the same start gives the same result, another start gives another, and the
    global random stream is never touched. `seed` changes what follows from a start.

    Args:
        num_train_timesteps: what a pipeline multiplies levels with.
        prediction_type: "flow_matching", the one there is.
        shift: see `SamplerSettings`, as are the following up to sigma_min.
        style: "few", "any" or "multi".
        stochastic_ratio: None for automatic, 0 for an ODE.
        extrapolation: 0 for none.
        solver_order: 1 or 2.
        kumaraswamy: spacing of the levels.
        sigma_max: first level.
        sigma_min: last level above zero; None for automatic.
        time_dtype: in which the network was given its time when it was trained, see `SamplerSettings`.
        time_unit: what the network calls the time of noise, 1 or 1000.
        seed: of the noise drawn where no generator is given.
        use_dynamic_shifting: this and the following are for pipelines that work out a `mu`; none is used here.
        base_shift: see above.
        max_shift: see above.
        base_image_seq_len: see above.
        max_image_seq_len: see above.

    Raises:
        TwinFlowConfigError: if a setting is out of its range, or the prediction type another.
    """

    order = 1
    init_noise_sigma = 1.0

    # The parent's __init__ would add its own schedule's options to the config, where they would be without effect.
    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "flow_matching",
        shift: float = 1.0,
        style: str = "few",
        stochastic_ratio: float | None = None,
        extrapolation: float = 0.0,
        solver_order: int = 1,
        kumaraswamy: Sequence[float] = (1.0, 1.0, 1.0),
        sigma_max: float = 0.999,
        sigma_min: float | None = None,
        time_dtype: str = "float32",
        time_unit: int = 1000,
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
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> Self | tuple[Self, dict[str, Any]]:
        """Take over from another scheduler, `TwinFlowScheduler.from_config(pipeline.scheduler.config)`.

        Of a scheduler of ours every setting is taken. Of any other only what a pipeline reads is: the model was trained
        for our levels, so the other one's shift, and whatever else it spaces its own levels by, stays behind.

        Args:
            config: of any flow-matching scheduler.
            kwargs: settings that replace those of the configuration, a `shift` too.

        Raises:
            TwinFlowConfigError: if the configuration is of a model that predicts something else than a flow.
        """
        if isinstance(config, Mapping) and _OURS not in config:
            prediction = config.get("prediction_type", "flow_matching")
            if prediction not in _FLOW_PREDICTIONS and not config.get("use_flow_sigmas", False):
                raise TwinFlowConfigError(
                    f"prediction_type is {prediction!r}; TwinFlow samples 'flow_matching' only. For a model that "
                    "predicts epsilon or v use TwinFlowDiffusionScheduler.from_config."
                )
            config = {name: value for name, value in config.items() if name not in _SETTINGS}
        return super().from_config(config, **kwargs)

    @property
    def settings(self) -> SamplerSettings:
        """The sampler's settings, with the shift that is set now."""
        config = self.config
        return SamplerSettings(
            style=config.style,
            stochastic_ratio=config.stochastic_ratio,
            extrapolation=config.extrapolation,
            solver_order=config.solver_order,
            kumaraswamy=tuple(config.kumaraswamy),
            sigma_max=config.sigma_max,
            sigma_min=config.sigma_min,
            shift=self.shift,
            time_dtype=config.time_dtype,
            time_unit=config.time_unit,
        )

    @property
    def target_times(self) -> Tensor:
        """The target time r, in [0, 1], that the network is to be given at each of `timesteps`."""
        return self.sigmas.new_tensor([call.r for call in self._calls])

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The times at which sampling in this many steps calls the network, for training to aim at."""
        return self.settings.step_times(steps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
        **kwargs: object,
    ) -> None:
        """Lay out the schedule and begin a new run.

        Args:
            num_inference_steps: number of network calls; may be left out where sigmas or timesteps say it.
            device: of `timesteps` and `sigmas`.
            sigmas: their number counts, their values do not.
            mu: accepted from pipelines that shift by resolution; of no effect, as any further keyword.
            timesteps: their number counts, their values do not.

        Raises:
            TwinFlowError: if the number of steps is missing, or given twice and differently.
        """
        given = {len(values) for values in (sigmas, timesteps) if values is not None}
        if num_inference_steps is not None:
            given.add(num_inference_steps)
        if len(given) != 1:
            raise TwinFlowError(
                "set_timesteps needs one number of steps, from num_inference_steps, sigmas or timesteps; "
                f"got {sorted(given) or 'none'}."
            )
        self._calls = self.settings.calls(given.pop())
        self.num_inference_steps = len(self._calls)
        # float32 like other schedulers' (a network may take a timestep in the dtype it comes in); steps use the calls.
        self.sigmas = torch.tensor([*(call.t for call in self._calls), 0.0], dtype=torch.float32, device=device)
        scaled = [call.t * self.config.num_train_timesteps for call in self._calls]
        self.timesteps = torch.tensor(scaled, dtype=torch.float32, device=device)
        self.sigma_max, self.sigma_min = self._calls[0].t, self._calls[-1].t
        self._step_index = self._begin_index = None
        self._walk = Walk(self.settings)
        self._derived: DerivedNoise | None = None
        self._state: Tensor | None = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample unchanged, for pipelines that ask."""
        return sample

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a timestep in the schedule, allowing for a timestep that went through bf16.

        Of equal ones it is the later: the first call of an interval, not the correction of the interval before.

        Raises:
            TwinFlowError: if the timestep is not on the schedule.
        """
        schedule = (self.timesteps if schedule_timesteps is None else schedule_timesteps).tolist()
        wanted = float(timestep)
        place = min(range(len(schedule)), key=lambda index: (abs(schedule[index] - wanted), -index))
        if abs(schedule[place] - wanted) > _TIMESTEP_TOLERANCE * self._timestep_range:
            raise TwinFlowError(f"Timestep {wanted:g} is not on the schedule {schedule}: pass one of `timesteps`.")
        return place

    def time_shift(self, mu: float, sigma: float, t: Tensor) -> Tensor:
        """The parent's exponential shift of the times t, for a pipeline that asks; it moves no level of ours."""
        return self._time_shift_exponential(mu, sigma, t)

    def stretch_shift_to_terminal(self, t: Tensor) -> Tensor:
        """The times unchanged, for a pipeline that asks: our last level is a setting, `sigma_min`."""
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
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """The sample after one call of the network; the steps of a run follow one another.

        Args:
            model_output: the network's noise-ward average velocity, (B, ...); with `per_token_timesteps` the data-ward
                one, as the parent takes it there.
            timestep: one of `timesteps`; it is looked up in the first step of a run only.
            sample: (B, ...).
            s_churn: 0, as everything up to s_noise at its default: the parent leaves them without effect.
            s_tmin: see above.
            s_tmax: see above.
            s_noise: see above.
            generator: source of fresh noise, one for all samples or one for each; None, see the class.
            per_token_timesteps: (B, N) for a sample of (B, N, C) whose tokens stand at levels of their own, such as
                those of a conditioning image. Each goes on to the next level of the schedule below its own.
            return_dict: whether to return a `TwinFlowSchedulerOutput` rather than a tuple.

        Raises:
            TwinFlowError: if the run is over, the timestep is not on the schedule, there are not as many generators as
                samples, or a value can not be honoured.
        """
        if (s_churn, s_tmin, s_tmax, s_noise) != (0.0, 0.0, math.inf, 1.0):
            raise TwinFlowError(
                f"s_churn, s_tmin, s_tmax, s_noise are {(s_churn, s_tmin, s_tmax, s_noise)}; this sampler has no "
                "churn: leave them out. stochastic_ratio is its share of fresh noise."
            )
        if self._step_index is None:
            self._init_step_index(timestep)
        if self._step_index >= len(self._calls):
            raise TwinFlowError(f"All {len(self._calls)} steps have been made: call set_timesteps to begin a new run.")
        x = self._precise(sample)
        draw = partial(self._fresh_noise, generator=generator)
        call, velocity = self._calls[self._step_index], model_output.to(x)
        if per_token_timesteps is None:
            x, x_hat = self._walk.advance(call, x, velocity, draw)
        else:
            now, following = self._token_levels(per_token_timesteps.to(x), call.t)
            x, x_hat = self._walk.advance_tokens(now, following, x, -velocity, draw)
        self._step_index += 1
        self._state = x
        prev_sample = x.to(sample.dtype)
        if not return_dict:
            return (prev_sample,)
        return TwinFlowSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x_hat.to(sample.dtype))

    @property
    def _timestep_range(self) -> float:
        """The timestep of level 1, or of level 0 where time runs towards the data."""
        return self.config.num_train_timesteps

    def _token_levels(self, timesteps: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Where tokens stand, and the schedule's next level below; (B, N) each. A rounded `level` is the level."""
        now = self._levels_of(timesteps)
        now = torch.where((now - level).abs() <= _TIMESTEP_TOLERANCE, level, now)
        below = now.new_tensor([*(call.t for call in self._calls), 0.0])
        return now, torch.where(below < now.unsqueeze(-1) - 1e-6, below, 0.0).amax(dim=-1)

    def _levels_of(self, timesteps: Tensor) -> Tensor:
        return timesteps / self.config.num_train_timesteps

    def _precise(self, sample: Tensor) -> Tensor:
        """The sample in full precision: the state it was rounded from, unless the pipeline has changed it since."""
        state = self._state
        comparable = state is not None and state.shape == sample.shape and state.device == sample.device
        if comparable and torch.equal(state.to(sample.dtype), sample):
            return state
        return sample.to(working_dtype(sample.device))

    def _fresh_noise(self, like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        if generator is None:
            if self._derived is None:
                self._derived = DerivedNoise(like, self.config.seed)
            return self._derived(like)
        if not isinstance(generator, torch.Generator):
            generator = list(generator)
            if len(generator) != like.shape[0]:
                raise TwinFlowError(f"Got {len(generator)} generators for {like.shape[0]} samples.")
        return randn_tensor(like.shape, generator=generator, device=like.device, dtype=torch.float32).to(like)
