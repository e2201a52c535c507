"""Anima's few-step sampler: its pipeline asks its scheduler by which of its own samplers to draw."""

from typing import Any

from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

BY_SCHEDULER = {"sampler": "flowmatch_euler", "sigma_schedule": "uniform"}  # the sampler that leaves the steps to it


class AnimaTwinFlowScheduler(TwinFlowScheduler):
    """`TwinFlowScheduler`, which has Anima's pipeline leave sigmas and steps to it."""

    def get_sampling_config(self) -> Any:
        """The host's settings of a drawing; those of its other samplers are their defaults."""
        from simpletuner.helpers.models.anima.scheduler import AnimaFlowMatchEulerDiscreteScheduler

        return AnimaFlowMatchEulerDiscreteScheduler(**BY_SCHEDULER).get_sampling_config()
