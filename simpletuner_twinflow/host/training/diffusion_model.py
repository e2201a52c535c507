"""Families that predict epsilon or v: the objective runs in flow coordinates, the network on the diffusion side."""

from collections.abc import Mapping
from typing import Any

from diffusers import LCMScheduler
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath
from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.stock import stock_diffusion_scheduler

# Batch key: the flow's time of each row, which the timestep does not give beyond the ends of the model's schedule.
FLOW_TIME = "twinflow_flow_time"


class DiffusionFamilyModel(FamilyModel):
    """Gives an epsilon or v network the point and time of the diffusion path that belong to the flow's state.

    The host's own bridge is not used: its tables are in the training dtype, and in bf16 a thousand times are 297.

    Raises:
        TwinFlowConfigError: the model's schedule or prediction has no flow, or it knows a part of the times only.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.path = DiffusionPath(model.noise_schedule.alphas_cumprod, model.PREDICTION_TYPE.value)
        if model.config.refiner_training:
            raise TwinFlowConfigError(
                "refiner_training is true (the host sets it for SDXL refiners and PixArt stage models): such a model "
                "knows a part of the times, TwinFlow needs all. Train the base model, or set twinflow_enabled to false."
            )

    def sigma(self, batch: Mapping[str, Any]) -> Tensor:
        """The flow's time of each row of a host batch, (B,) float32."""
        return batch[FLOW_TIME] if FLOW_TIME in batch else self.path.sigma(batch["timesteps"])

    def velocity(self, output: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The average velocity, data to noise, of the network's epsilon or v on this batch; float32."""
        return self.path.velocity(output["model_prediction"], batch["noisy_latents"], self.sigma(batch))

    def at(self, batch: Mapping[str, Any], x_t: Tensor, t: Tensor, r: Tensor, sign: Tensor) -> dict[str, Any]:
        """A copy of the host batch for the velocity at (x_t, t, r) of the flow; negative time at sign < 0."""
        point = self.path.point(x_t, t)
        signed = self.time_conditioning_mode == "signed_time"
        changes = {
            "noisy_latents": point.x.to(batch["noisy_latents"].dtype),
            "timesteps": sign * self.path.time(t - r / 2) if signed else point.time,
            FLOW_TIME: t,
        }
        return dict(batch) | changes | self._time_keys(r, sign)

    def _timesteps(self, t: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return self.path.time(t)

    @property
    def steps_are_conditioned(self) -> bool:
        """False: the sampler noises anew between its steps, as the stock LCMScheduler does."""
        return False

    def scheduler(self) -> TwinFlowDiffusionScheduler:
        """The few-step sampler for this model."""
        return TwinFlowDiffusionScheduler.from_config(self.noise_schedule)

    def stock_scheduler(self, steps: int) -> LCMScheduler | None:
        """The stock diffusers scheduler closest to it, for this many steps; None where none is close."""
        return stock_diffusion_scheduler(self.noise_schedule, steps)

    @property
    def noise_schedule(self) -> dict[str, Any]:
        """The configuration of the schedule that is trained, with the kind of prediction."""
        return dict(self.model.noise_schedule.config) | {"prediction_type": self.path.prediction_type}


def family_model_for(model: Any) -> FamilyModel:
    """The family model of a run's `ModelFoundation`."""
    return (DiffusionFamilyModel if model.config.model_family in DIFFUSION_FAMILIES else FamilyModel)(model)
