"""What the two few-step schedulers share: the schedule, the place in it, the state between steps and fresh noise."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.schedule import SamplerSettings, SolverStep
from simpletuner_twinflow.sampling.solver import DerivedNoise, Solver, working_dtype

# As a share of num_train_timesteps. Pipelines return a timestep in the model's dtype: in bf16, 999 is 1000.
TIMESTEP_TOLERANCE = 0.004

Generators = torch.Generator | Sequence[torch.Generator] | None
Update = Callable[[SolverStep, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class TwinFlowSchedulerOutput(FlowMatchEulerDiscreteSchedulerOutput):
    """The result of a step; both have the sample's shape and dtype."""

    prev_sample: Tensor  # type: ignore[assignment]  # a FloatTensor to the parent, which no tensor is to a checker
    pred_original_sample: Tensor  # the clean estimate


class FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers types config_name twice
    """A few-step sampler as a diffusers scheduler. Its state is on the flow's path, in float64 between the steps.

    A subclass says what a pipeline sees of it: `settings`, `_lay_out`, and where its samples are not the flow's own
    `_to_flow` and `_from_flow`. Its `step` turns the network's output into the flow's velocity.
    """

    order = 1

    timesteps: Tensor
    """What a pipeline gives the network at each step, (steps,) float32."""
    flow_sigmas: Tensor
    """The flow's sigma of the sample at each step, and the 0 at the end: (steps + 1,) float32."""
    _step_index: int | None
    _begin_index: int | None
    _state: Tensor | None  # the flow's, (B, ...) in full precision, after the last step
    _derived: DerivedNoise | None

    @property
    @abstractmethod
    def settings(self) -> SamplerSettings:
        """The sampler's settings."""

    @abstractmethod
    def _lay_out(self) -> None:
        """Set `timesteps` for the steps of a new run."""

    def _to_flow(self, sample: Tensor, sigma: Tensor) -> Tensor:
        """The flow's state of a pipeline's sample (B, ...) at sigma (B,)."""
        return sample

    def _from_flow(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The pipeline's sample of the flow's state (B, ...) at sigma (B,)."""
        return x

    @property
    def target_times(self) -> Tensor:
        """The target time r in [0, 1] that the network is to be given at each of `timesteps`, (steps,) float32."""
        return self.flow_sigmas.new_tensor([step.r for step in self._steps])

    @property
    def step_index(self) -> int | None:
        """The number of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the run's first step, if a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at this step, as image-to-image pipelines do."""
        self._begin_index = begin_index

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The flow's times at which sampling in this many steps calls the network, for training to aim at."""
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
            num_inference_steps: number of network calls; may be left out if sigmas or timesteps are given.
            device: of `timesteps` and `flow_sigmas`.
            sigmas: only their number is used.
            mu: accepted from pipelines that shift by resolution, and not used; so is any further keyword.
            timesteps: only their number is used.

        Raises:
            TwinFlowError: the number of steps is missing, or given twice and differently.
        """
        given = {len(values) for values in (sigmas, timesteps) if values is not None}
        if num_inference_steps is not None:
            given.add(num_inference_steps)
        if len(given) != 1:
            raise TwinFlowError(
                "set_timesteps needs one number of steps, from num_inference_steps, sigmas or timesteps; "
                f"got {sorted(given) or 'none'}."
            )
        settings = self.settings
        self._steps = settings.steps(given.pop())
        self._solver = Solver(settings.stochastic_ratio)
        self.num_inference_steps = len(self._steps)
        # float32 as in other schedulers, since a network may compute in its timestep's dtype; steps use float64.
        self.flow_sigmas = torch.tensor([*(step.t for step in self._steps), 0.0], dtype=torch.float32, device=device)
        self._lay_out()
        self._step_index = self._begin_index = self._state = self._derived = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample unchanged, for pipelines that ask."""
        return sample

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a timestep in the schedule, the first of equal ones; it may have been rounded to bf16.

        Raises:
            TwinFlowError: the timestep is not on the schedule.
        """
        schedule: list[float] = (self.timesteps if schedule_timesteps is None else schedule_timesteps).tolist()
        wanted = float(timestep)
        place = min(range(len(schedule)), key=lambda index: abs(schedule[index] - wanted))
        if abs(schedule[place] - wanted) > TIMESTEP_TOLERANCE * self.config["num_train_timesteps"]:
            raise TwinFlowError(f"Timestep {wanted:g} is not on the schedule {schedule}: pass one of `timesteps`.")
        return place

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def _make_step(
        self, timestep: float | Tensor, sample: Tensor, return_dict: bool, update: Update
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """Make the run's next step.

        Args:
            timestep: looked up in the first step of a run only.
            sample: the pipeline's, (B, ...).
            return_dict: whether to return a `TwinFlowSchedulerOutput` rather than a tuple.
            update: gives the flow's next state and clean estimate, (B, ...) each, from the step, the flow's state
                (B, ...) and its sigma (B,) in float32.

        Raises:
            TwinFlowError: the run is over, or it begins at a timestep that is not on the schedule.
        """
        index = self._step_index if self._step_index is not None else self._begin_index
        if index is None:
            index = self.index_for_timestep(timestep)
        if index >= len(self._steps):
            raise TwinFlowError(f"All {len(self._steps)} steps have been made: call set_timesteps to begin a new run.")
        sigma, sigma_next = (
            self.flow_sigmas[place].to(sample.device).expand(len(sample)) for place in (index, index + 1)
        )
        state = self._full_precision(sample, sigma)
        self._state, clean = update(self._steps[index], state, sigma)
        self._step_index = index + 1
        prev_sample = self._from_flow(self._state, sigma_next).to(sample.dtype)
        if not return_dict:
            return (prev_sample,)
        return TwinFlowSchedulerOutput(prev_sample=prev_sample, pred_original_sample=clean.to(sample.dtype))

    def _full_precision(self, sample: Tensor, sigma: Tensor) -> Tensor:
        """The flow's state that a sample was rounded from; made anew if a pipeline has changed the sample since."""
        state = self._state
        if (
            state is not None
            and state.shape == sample.shape
            and state.device == sample.device
            and torch.equal(self._from_flow(state, sigma).to(sample.dtype), sample)
        ):
            return state
        return self._to_flow(sample.to(working_dtype(sample.device)), sigma)

    def _fresh_noise(self, like: Tensor, generator: Generators) -> Tensor:
        """Standard normal noise. Raises: TwinFlowError: the generators are not as many as the samples."""
        if generator is None:
            if self._derived is None:
                self._derived = DerivedNoise(like, self.config["seed"])
            return self._derived(like)
        if not isinstance(generator, torch.Generator):
            generator = list(generator)
            if len(generator) != like.shape[0]:
                raise TwinFlowError(f"Got {len(generator)} generators for {like.shape[0]} samples.")
        drawn: Tensor = randn_tensor(like.shape, generator=generator, device=like.device, dtype=torch.float32)
        return drawn.to(like)
