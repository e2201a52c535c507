"""Videos of Cosmos 3, each fault of the host shown first as it is without TwinFlow."""

from types import SimpleNamespace

import pytest
import torch
from simpletuner.helpers.caching.vae import VAECache
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow.host.training.cosmos3 import FRAMES, RATE, SIGNATURE
from testbed.host_models.flow import host_model

pytestmark = pytest.mark.usefixtures("in_folder")
FILE = {"target_size": (64, 64), "num_frames": 11, "bucket_frames": 11, "fps": 30}
OF_A_FILE = {"data_backend_id": "set", "dataset_relative_path": "a.mp4"}


@pytest.fixture(params=[True, False], ids=["TwinFlow", "without"])
def model(request, folder):
    """A tiny model of a run with TwinFlow, and of one without."""
    made = host_model("cosmos3", folder, twinflow_enabled=request.param, framerate=16)
    made.with_twinflow = request.param
    return made


def test_frames_are_encoded_as_frames(model, monkeypatch):
    monkeypatch.setattr(StateTracker, "get_model_family", lambda: "cosmos3")
    cache = VAECache.__new__(VAECache)
    cache.model, cache.num_video_frames = model, 5
    shape = tuple(cache.prepare_video_latents(torch.zeros(2, 9, 3, 8, 8)).shape)
    assert shape == ((2, 3, 5, 8, 8) if model.with_twinflow else (2, 9, 3, 8, 8))
    assert cache.prepare_video_latents(torch.zeros(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def asked(model, prompt):
    """The metadata of a prompt as its file's and as the sample's, of nine frames of which the latents have three."""
    backend = {"metadata_backend": SimpleNamespace(get_metadata_by_filepath=lambda path: FILE)}
    written = model.text_embed_cache_metadata_for_filepath(
        init_backend=backend, image_path="a.mp4", prompt=prompt, **OF_A_FILE
    )
    looked_for = model.text_embed_cache_metadata_for_sample(
        example={}, latent=torch.zeros(4, 3, 4, 4), prompt=prompt, **OF_A_FILE
    )
    return written, looked_for


def test_prompt_is_found_under_the_frames_and_the_rate_that_it_was_encoded_for(model):
    written, looked_for = asked(model, "a cat")
    assert (written == looked_for) == model.with_twinflow
    if model.with_twinflow:
        assert (written[FRAMES], written[RATE]) == (9, 16.0), "as the pipeline words it"


@pytest.mark.parametrize("prompt", ["a cat", "a dog"])
def test_prompt_of_the_videos_frames_is_taken_for_its_sample_and_no_other_is(prompt, folder):
    model = host_model("cosmos3", folder, framerate=16)
    entry = model.tiny.text["cosmos3_reasoner_cache"].made("a cat", torch.Generator().manual_seed(0))
    read = entry | {"cache_signature": asked(model, "a cat")[1][SIGNATURE]}

    def predict():
        return model._predict_single_sample(
            adapter=model._get_training_pipeline_adapter(),
            prompt=prompt,
            vision_tokens=torch.zeros(1, 4, 3, 4, 4),
            vision_timestep=torch.tensor(500.0),
            fps=16.0,
            reasoner_cache=read,
        )

    if prompt == "a cat":
        assert predict()[0][0].shape == (1, 4, 3, 4, 4)
    else:
        with pytest.raises(ValueError, match="signature does not match"):
            predict()
