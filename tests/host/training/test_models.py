"""Which family model a run gets."""

import pytest

from simpletuner_twinflow.host.training.diffusion_model import DiffusionFamilyModel
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.models import family_model_for
from testbed.host_models import diffusion, flow

pytestmark = pytest.mark.usefixtures("in_folder")


def test_model_that_predicts_a_flow_is_asked_as_it_is(folder):
    assert type(family_model_for(flow.host_model("sd3", folder))) is FamilyModel


def test_model_that_predicts_epsilon_is_asked_through_its_noise_schedule(folder):
    assert type(family_model_for(diffusion.host_model("sdxl", folder))) is DiffusionFamilyModel
