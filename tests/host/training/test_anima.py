"""Anima's few-step sampler is one that its pipeline leaves the steps to."""

import warnings

import pytest
from simpletuner.helpers.models.anima.scheduler import AnimaFlowMatchEulerDiscreteScheduler
from simpletuner.helpers.models.anima.validation import _warn_ignored_sampling_arguments

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.host.training.anima import AnimaTwinFlowScheduler


def test_it_is_the_few_step_sampler_and_asks_for_no_other():
    scheduler = AnimaTwinFlowScheduler(time_dtype="bfloat16", time_unit=1)
    assert isinstance(scheduler, TwinFlowScheduler)
    assert scheduler.step_times(4) == TwinFlowScheduler(time_dtype="bfloat16", time_unit=1).step_times(4)
    asked = scheduler.get_sampling_config()
    assert (asked.sampler, asked.sigma_schedule) == ("flowmatch_euler", "uniform")
    assert AnimaFlowMatchEulerDiscreteScheduler().get_sampling_config().sampler != asked.sampler
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_ignored_sampling_arguments(**vars(asked))


def test_a_scheduler_that_says_nothing_of_it_is_not_what_the_pipeline_takes():
    with pytest.raises(AttributeError):
        TwinFlowScheduler().get_sampling_config()
