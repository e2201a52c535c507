"""TwinFlow has the host load every family's network as it does without TwinFlow."""

import logging

import diffusers
import pytest
import torch
from simpletuner.helpers.models.common import PipelineTypes
from simpletuner.helpers.models.registry import ModelRegistry

from simpletuner_twinflow.host.training.mended import MENDED
from testbed.host_models import diffusion
from testbed.host_models.flow import host_model
from testbed.host_models.zoo import ZOO


@pytest.mark.parametrize("family", ZOO)
def test_network_is_loaded_from_its_files_as_without_twinflow(family, folder):
    """In the dtype of ordinary runs; families that keep modules in float32 have a loader of their own for that."""
    plain, ours = (
        host_model(family, folder, dtype=torch.bfloat16, twinflow_enabled=enabled) for enabled in (False, True)
    )
    assert ours.pretrained_load_args({}) == plain.pretrained_load_args({})
    assert dict(ours.model.config) == dict(plain.model.config)
    expected, found = plain.model.state_dict(), ours.model.state_dict()
    assert expected.keys() == found.keys()
    assert [key for key, weight in expected.items() if not weight.equal(found[key])] == []
    assert {key: weight.dtype for key, weight in expected.items()} == {key: w.dtype for key, w in found.items()}


def encoding_pipeline(family, folder, enabled, made=host_model):
    """The pipeline that the host makes to encode prompts with, its other parts left out."""
    model = made(family, folder, twinflow_enabled=enabled)
    model.get_vae = lambda: None
    model.text_encoders = model.tokenizers = [None] * len(model.TEXT_ENCODER_CONFIGURATION)
    return model, model.get_pipeline(PipelineTypes.TEXT2IMG, load_base_model=False)


@pytest.mark.parametrize("family", [name for name in MENDED if name in ZOO])
def test_pipeline_that_the_host_makes_without_its_scheduler_gets_it_in_a_twinflow_run(family, folder, caplog):
    with pytest.raises(TypeError, match="scheduler"):
        encoding_pipeline(family, folder, enabled=False)
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        model, pipeline = encoding_pipeline(family, folder, enabled=True)
    assert type(pipeline) is model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    assert type(pipeline.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    assert "Mending SimpleTuner" in caplog.text


def test_pipeline_that_the_host_makes_without_optional_parts_does_without_in_a_twinflow_run(folder, caplog):
    made = diffusion.host_model
    with pytest.raises(TypeError, match="safety_checker"):
        encoding_pipeline("sd1x", folder, enabled=False, made=made)
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        model, pipeline = encoding_pipeline("sd1x", folder, enabled=True, made=made)
    assert type(pipeline) is model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    assert pipeline.safety_checker is None
    assert "is made without feature_extractor, safety_checker" in caplog.text
    with pytest.raises(TypeError, match="safety_checker"):  # the class is as it was
        encoding_pipeline("sd1x", folder, enabled=False, made=made)


def test_every_mended_family_is_one_that_the_host_has():
    assert MENDED.keys() <= ModelRegistry.model_families().keys()
