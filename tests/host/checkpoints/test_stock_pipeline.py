"""The host's pipeline in stock classes: same name, same weights, complete, its scheduler exchanged if asked for."""

import diffusers
import pytest
from simpletuner.helpers.models.common import PipelineTypes

from simpletuner_twinflow.host.checkpoints.stock_pipeline import stock_network, stock_pipeline
from testbed.host_models.build import family_model_of
from testbed.host_models.demo import demo_model


@pytest.fixture
def model(in_folder):
    return demo_model()


@pytest.fixture
def hosts(model):
    """Its pipeline, as at the end of a run: without text encoders."""
    return model.get_pipeline(PipelineTypes.TEXT2IMG)


def test_pipeline_is_the_stock_class_of_its_name_and_complete(model, hosts):
    stock = stock_pipeline(hosts, model, (), None)
    assert type(stock) is diffusers.StableDiffusion3Pipeline
    absent = {name for name, part in stock.components.items() if part is None}
    assert absent == {"image_encoder", "feature_extractor"}  # which no SD3 has
    assert stock.scheduler is hosts.scheduler


def test_weights_are_shared_and_not_copied(model, hosts):
    trained = dict(model.get_trained_component().named_parameters())
    stock = stock_pipeline(hosts, model, (), None)
    for name, parameter in stock.transformer.named_parameters():
        assert parameter.data_ptr() == trained[name].data_ptr()


def test_scheduler_given_takes_the_place_of_the_pipelines(model, hosts):
    ours = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.5)
    assert stock_pipeline(hosts, model, (), ours).scheduler is ours


def test_missing_text_encoders_are_said_and_the_rest_is_exported(model, hosts, monkeypatch, caplog):
    def fail(move_to_device):
        raise OSError("no such folder")

    monkeypatch.setattr(model, "load_text_encoder", fail)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        setattr(hosts, name, None)
    stock = stock_pipeline(hosts, model, (), None)
    assert stock.text_encoder is None
    assert stock.transformer is not None
    assert "has no text encoders, take them from the base model: no such folder" in caplog.text


def test_network_leaves_out_what_only_training_needs(model):
    names = family_model_of(model).time_conditioning_modules()
    network = model.get_trained_component()
    stock = stock_network(network, names)
    assert not [name for name, _ in stock.named_modules() if name.startswith(tuple(names))]
    assert all(name in dict(network.named_modules()) for name in names)
