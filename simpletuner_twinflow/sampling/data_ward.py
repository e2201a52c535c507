"""The UCGM sampler for pipelines whose time runs towards the data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.sampling.scheduler import TwinFlowScheduler, TwinFlowSchedulerOutput


class DataWardTwinFlowScheduler(TwinFlowScheduler):
    """`TwinFlowScheduler` where a pipeline counts time as the share of data, 1 - t, and the network returns x - z.

    Only what passes between pipeline and scheduler is turned round: `timesteps` rise from 0 at noise towards 1, and
    `step` takes the data-ward velocity. Levels, settings and results are the parent's.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
        **kwargs: object,
    ) -> None:
        """As the parent's, with `timesteps` in [0, 1]."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps, **kwargs)
        self.timesteps = 1 - self.timesteps / self.config.num_train_timesteps

    def step(self, model_output: Tensor, *args: Any, **kwargs: Any) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """As the parent's, from a data-ward average velocity, (B, ...); noise-ward with `per_token_timesteps`."""
        return super().step(-model_output, *args, **kwargs)

    @property
    def _timestep_range(self) -> float:
        return 1.0

    def _levels_of(self, timesteps: Tensor) -> Tensor:
        return 1 - timesteps

    def _sigma_to_t(self, sigma: float) -> float:
        return 1 - sigma
