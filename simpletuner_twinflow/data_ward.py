"""The UCGM sampler for pipelines whose time runs towards the data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from simpletuner_twinflow.scheduler import TwinFlowScheduler, TwinFlowSchedulerOutput


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

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> TwinFlowSchedulerOutput | tuple[Tensor]:
        """As the parent's, from a data-ward average velocity."""
        return super().step(-model_output, timestep, sample, generator, return_dict)
