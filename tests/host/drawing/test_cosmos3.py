"""Cosmos 3's validation: words, frames and the whole network for a pipeline that the host gives none of them."""

import json
from types import SimpleNamespace

import pytest
import torch
from simpletuner.helpers.models.cosmos3.pipeline import Cosmos3OmniPipelineOutput
from simpletuner.helpers.models.cosmos3.reasoner import Cosmos3Reasoner, Cosmos3ReasonerConfig
from simpletuner.helpers.training import validation as hosts
from simpletuner.helpers.training.state_tracker import StateTracker
from simpletuner.helpers.training.validation import Validation

from simpletuner_twinflow.host.drawing.cosmos3 import reading, worded
from testbed.host_models.flow import host_model
from tests.host.families.test_sampling import draw

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def validation(folder):
    """Makes the host's validation of a tiny model; takes changes to the config."""

    def make(**changes):
        made = Validation.__new__(Validation)
        made.model = host_model("cosmos3", folder, **changes)
        made.config = made.model.config
        return made

    return make


def halved(model):
    """Take the reading layers out of the model's network, as the host publishes it, and give them to a reasoner."""
    weights, config = model.model.state_dict(), model.model.config
    reasoner = Cosmos3Reasoner(Cosmos3ReasonerConfig.from_dict(dict(config)))
    reasoner.load_state_dict({name: weights[name] for name in reasoner.state_dict()})
    network = type(model.model).from_config(config, load_reasoning_layers=False)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    model.model, model.reasoner = network, reasoner
    model._load_reasoner = lambda: reasoner


def test_half_a_network_draws_what_the_whole_one_does(folder):
    model = host_model("cosmos3", folder, twinflow_target_step_count=2)
    expected = draw(model)
    halved(model)
    with pytest.raises(ValueError, match="generator-only transformer requires"):
        draw(model)
    with reading(model):
        torch.testing.assert_close(draw(model), expected)
    with pytest.raises(ValueError, match="generator-only transformer requires"):
        draw(model)


def test_pipeline_is_given_words_and_the_length_of_the_film(validation):
    with pytest.raises(AttributeError):  # the host asks its text cache
        validation(twinflow_enabled=False)._gather_prompt_embeds("a cat", "cat")
    length = {"validation_num_video_frames": 9, "framerate": 16}
    found = validation(validation_negative_prompt="ugly", **length)._gather_prompt_embeds("a cat", "cat")
    assert found == {"prompt": "a cat", "negative_prompt": "ugly", "num_frames": 9, "fps": 16.0}
    assert validation()._gather_prompt_embeds("a cat", "cat")["num_frames"] == 1


@pytest.mark.parametrize(("enabled", "pictures", "films"), [(True, ["a"], [["a", "b"]]), (False, None, None)])
def test_what_the_pipeline_draws_is_found(enabled, pictures, films, validation, monkeypatch):
    made = validation(twinflow_enabled=enabled)
    monkeypatch.setattr(StateTracker, "get_model", lambda: made.model)
    assert made._extract_pipeline_media(Cosmos3OmniPipelineOutput(video=["a"])) == pictures
    assert made._extract_pipeline_media(Cosmos3OmniPipelineOutput(video=["a", "b"])) == films
    assert made._extract_pipeline_media(SimpleNamespace(images=["c"])) == ["c"]


@pytest.mark.parametrize("enabled", [True, False])
def test_validations_prompts_are_not_encoded_beforehand(enabled, validation):
    asked = []
    cache = SimpleNamespace(compute_embeddings_for_prompts=lambda *_, **__: asked.append(1))
    made = validation(twinflow_enabled=enabled)
    hosts._precache_validation_prompt_embeddings(made.config, cache, made.model, [{"prompt": "a cat"}])
    assert bool(asked) is not enabled


@pytest.mark.parametrize(("enabled", "frames", "place"), [(True, 9, None), (True, None, "left"), (False, 9, "left")])
def test_picture_is_not_put_beside_a_film_where_the_host_fails(enabled, frames, place, validation):
    made, seen = validation(twinflow_enabled=enabled, validation_num_video_frames=frames), []
    made._update_state = lambda: seen.append(made.config.validation_stitch_input_location)
    made._validation_method, made.validation_prompt_metadata = (lambda: None), None
    made.run_validations(validation_type="intermediary")
    assert seen == [place]
    assert made.config.validation_stitch_input_location == "left"


@pytest.mark.parametrize(("frames", "introduced"), [(None, "images"), (9, "videos")])
def test_stock_pipeline_is_given_the_words_of_training(frames, introduced, validation):
    made = validation(validation_num_video_frames=frames)
    code, arguments, picture = worded(made.model, "a cat", width=64, height=96)
    words = json.loads(arguments["prompt"])
    assert words["resolution"] == {"H": 96, "W": 64}
    assert "a cat" in arguments["prompt"]
    assert arguments["add_resolution_template"] is arguments["add_duration_template"] is False
    assert arguments["num_frames"] == (frames or 1)
    assert f"will generate {introduced} from a given prompt" in "\n".join(code)
    assert picture == []


def test_stock_pipeline_is_given_the_first_frame_where_the_network_is(validation):
    made = validation(model_flavour="super-i2v", validation_num_video_frames=9)
    assert worded(made.model, "a cat", width=64, height=64).picture == ["image=load_image('first-frame.png')"]
