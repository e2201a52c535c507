"""The few-step scheduler in the place of the one that ACE-Step's pipeline makes for itself."""

import pytest
import torch
from simpletuner.helpers.models.ace_step import pipeline as hosts

from simpletuner_twinflow.host.drawing.ace_step import CalledWithOmega, own_scheduler
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from testbed.host_models.flow import host_model

pytestmark = pytest.mark.usefixtures("in_folder")


def test_it_is_there_for_the_length_of_the_block_and_for_this_family_alone(folder):
    own = hosts.FlowMatchEulerDiscreteScheduler
    for family, replaced in (("ace_step", True), ("minimaxmusic", False)):
        model = host_model(family, folder)
        model.twinflow_model = family_model_for(model)
        with own_scheduler(model):
            assert (hosts.FlowMatchEulerDiscreteScheduler is not own) == replaced
        assert hosts.FlowMatchEulerDiscreteScheduler is own


def test_it_steps_as_our_scheduler_whatever_omega_is(folder):
    model = host_model("ace_step", folder, twinflow_target_step_count=2)
    model.twinflow_model = family_model_for(model)
    with own_scheduler(model):
        made = hosts.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    assert isinstance(made, CalledWithOmega)
    ours = TwinFlowScheduler()
    timesteps, count = hosts.retrieve_timesteps(made, num_inference_steps=2, device="cpu", timesteps=None)
    ours.set_timesteps(2)
    assert (timesteps.tolist(), count) == (ours.timesteps.tolist(), 2)
    x, velocity = torch.ones(1, 8, 16, 4), torch.full((1, 8, 16, 4), 0.3)
    call = {"model_output": velocity, "timestep": timesteps[0], "sample": x, "return_dict": False}
    assert made.step(**call, omega=10.0, generator=None)[0].equal(ours.step(**call)[0])
