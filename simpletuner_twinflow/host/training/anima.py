"""Anima's few-step sampler: its pipeline asks its scheduler by which of its own samplers to draw."""

from typing import Any

from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

BY_SCHEDULER = {"sampler": "flowmatch_euler", "sigma_schedule": "uniform"}  # the sampler that leaves the steps to it


class AnimaTwinFlowScheduler(TwinFlowScheduler):
    """`TwinFlowScheduler`, which has Anima's pipeline leave sigmas and steps to it."""

    def get_sampling_config(self) -> Any:
        """The host's settings of a drawing; those of its other samplers have no effect."""
        from simpletuner.helpers.models.anima.scheduler import AnimaSamplingConfig

        return AnimaSamplingConfig(**BY_SCHEDULER, beta_alpha=1.0, beta_beta=1.0, eta=0.0, s_noise=1.0)
