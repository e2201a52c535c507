"""The empty prompt of Cosmos 3, which the host's collator asks for without having it: one of each picture's size."""

from types import SimpleNamespace

import pytest
from simpletuner.helpers.caching.text_embeds import TextEmbeddingCache
from simpletuner.helpers.training import collate
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow.host.training.cosmos3 import SIGNATURE
from testbed.host_models.flow import host_model

pytestmark = pytest.mark.usefixtures("in_folder")
OF_A_FILE = {"data_backend_id": "set", "dataset_relative_path": "a.png", "prompt": "a cat"}


class Cache(TextEmbeddingCache):
    """The host's text cache, which notes what it is asked for and encodes nothing."""

    batch_write_thread = SimpleNamespace(is_alive=lambda: False)

    def __init__(self, model):
        self.model, self.asked, self.text_cache_ondemand = model, [], False
        self.id, self.data_backend, self._requires_path_based_keys = "text", self, True
        self.cache_dir, self.key_type, self.model_type = "cache", model.text_embed_cache_key(), "cosmos3"

    def compute_prompt_embeddings_with_model(self, prompt_records):
        self.asked += [(record["prompt"], record["key"], self.text_cache_ondemand) for record in prompt_records]
        return {"cosmos3_reasoner_cache": {}}


class Files:
    """The metadata of a dataset's files."""

    def get_metadata_by_filepath(self, path):
        return {"target_size": (64, 96) if "tall" in path else (64, 64)}


@pytest.fixture
def made(folder):
    """Makes a model and the run's text cache; takes changes to the config."""

    def make(**changes):
        model = host_model("cosmos3", folder, **changes)
        cache = Cache(model)
        StateTracker.set_default_text_embed_cache(cache)
        return model, cache

    return make


def entry(prompt, signature="64x64"):
    """What the collator asks for."""
    return {"prompt": prompt, "key": "set:a.png", "metadata": OF_A_FILE | {SIGNATURE: signature}}


def test_empty_prompt_is_one_a_size_encoded_where_it_is_the_first(made):
    model, cache = made()
    for signature in ("64x64", "64x96", "64x64"):
        collate.compute_single_embedding(entry("", signature), cache, model)
    collate.compute_single_embedding(entry("a cat"), cache, model)
    words, keys, on_demand = zip(*cache.asked, strict=True)
    assert words == ("", "", "", "a cat")
    assert keys[0] == keys[2] != keys[1]
    assert not any("a.png" in key for key in keys[:3])
    assert on_demand == (True, True, True, False)
    assert cache.text_cache_ondemand is False


def test_without_twinflow_the_collator_asks_as_it_does(made):
    model, cache = made(twinflow_enabled=False)
    collate.compute_single_embedding(entry(""), cache, model)
    assert cache.asked == [("", "set:a.png", False)]


def test_host_encodes_the_empty_prompt_for_no_size_and_raises_and_a_twinflow_run_does_not(made):
    model, cache = made(twinflow_enabled=False)
    model._load_reasoner = lambda: None
    with pytest.raises(ValueError, match="requires geometry metadata"):
        cache.encode_dropout_caption()
    made()[1].encode_dropout_caption()


@pytest.mark.parametrize(
    ("changes", "encoded"),
    [
        ({"twinflow_guidance_scale": 2.0}, 2),
        ({"twinflow_guidance_scale": 1.0, "caption_dropout_probability": 0.1}, 2),
        ({"twinflow_guidance_scale": 1.0, "caption_dropout_probability": 0.0}, 0),
    ],
)
def test_each_size_of_a_dataset_is_encoded_after_its_captions_where_it_is_needed(changes, encoded, made):
    model, cache = made(**changes)
    found = [
        model.text_embed_cache_metadata_for_filepath(
            init_backend={"metadata_backend": Files()},
            image_path=path,
            prompt="a cat",
            data_backend_id="set",
            dataset_relative_path=path,
        )
        for path in ("a.png", "tall.png", "b.png")
    ]
    assert found[0] == found[2] != found[1]
    model.after_text_embed_cache_precompute()
    assert [(words, on_demand) for words, _, on_demand in cache.asked] == [("", True)] * encoded
    assert len({key for _, key, _ in cache.asked}) == encoded
    model.after_text_embed_cache_precompute()
    assert len(cache.asked) == encoded, "once"
