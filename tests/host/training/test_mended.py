"""Faults of the host that are mended in a TwinFlow run, each shown first as it is without."""

import logging

import diffusers
import pytest
import torch
from peft.tuners.lora import LoraLayer
from simpletuner.helpers.models.common import PipelineTypes
from simpletuner.helpers.models.registry import ModelRegistry

from simpletuner_twinflow.host.training.mended import MENDED, NO_SCHEDULER
from testbed.host_models import diffusion
from testbed.host_models.flow import host_batch, host_model
from testbed.host_models.tiny import cached_text
from testbed.host_models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("in_folder")


def encoding_pipeline(family, folder, enabled, made=host_model):
    """The pipeline that the host makes to encode prompts with, its other parts left out."""
    model = made(family, folder, twinflow_enabled=enabled)
    model.get_vae = lambda: None
    model.text_encoders = model.tokenizers = [None] * len(model.TEXT_ENCODER_CONFIGURATION)
    return model, model.get_pipeline(PipelineTypes.TEXT2IMG, load_base_model=False)


@pytest.mark.parametrize("family", [name for name in MENDED if name in ZOO and NO_SCHEDULER in MENDED[name]])
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


@pytest.mark.parametrize("enabled", [False, True])
def test_lycoris_of_ltxvideo2_leaves_its_text_connectors_alone(enabled, folder):
    """In the network they would be adapted too; the pass that a batch is trained on uses them wherever they are."""
    lycoris = {"lora_type": "lycoris", "lycoris_config": "lycoris.json"}
    model = host_model("ltxvideo2", folder, twinflow_enabled=enabled, **lycoris)
    adapted = [name for name, _ in model.model.named_modules() if name.startswith("connectors")]
    assert bool(adapted) != enabled
    assert not enabled or not any(weight.requires_grad for weight in model.connectors.parameters())
    model.model_predict(prepared_batch=host_batch(model))


def test_every_mended_family_is_one_that_the_host_has():
    assert MENDED.keys() <= ModelRegistry.model_families().keys()


@pytest.mark.parametrize(("enabled", "scale"), [(False, 6 / 2**0.5), (True, 6 / 2)])
def test_adapter_that_names_its_alphas_is_scaled_by_alpha_over_rank(enabled, scale, make_trainer, caplog):
    model = make_trainer(twinflow_enabled=enabled).model
    layers = {name: layer for name, layer in model.model.named_modules() if isinstance(layer, LoraLayer)}
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        model._apply_alpha_scaling(model.model, dict.fromkeys(layers, torch.tensor(6.0)))
    assert [layer.scaling["default"] for layer in layers.values()] == pytest.approx([scale] * len(layers))
    assert ("scaled by alpha / rank, 3" in caplog.text) == enabled


def test_negative_prompt_of_sana_video_is_read_without_asking_whether_a_tensor_is_true(folder):
    text = cached_text(ZOO["sanavideo"].text, "")
    with pytest.raises(RuntimeError, match="ambiguous"):
        host_model("sanavideo", folder, twinflow_enabled=False).convert_negative_text_embed_for_pipeline(text)
    found = host_model("sanavideo", folder).convert_negative_text_embed_for_pipeline(text)
    assert torch.equal(found["negative_prompt_embeds"], text["prompt_embeds"])
    assert torch.equal(found["negative_prompt_attention_mask"], text["prompt_attention_mask"])
