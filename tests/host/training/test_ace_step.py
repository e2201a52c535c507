"""ACE-Step: what its batches lack is there, the clean prediction is a velocity, and padding counts in no term."""

import logging
from dataclasses import replace

import pytest
import torch
from py3langid.langid import LanguageIdentifier

from simpletuner_twinflow.host.training.ace_step import SSL, VELOCITY, song_weights
from simpletuner_twinflow.host.training.batches import EMPTY_PROMPT
from simpletuner_twinflow.host.training.distiller import TwinFlowDistiller, is_regularisation
from simpletuner_twinflow.method.losses import squared_error
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import PROMPTS, host_batch, host_model
from testbed.host_models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("in_folder")


def lengths(batch, *counts):
    """The batch with songs of so many latents; the rest of each row is padding."""
    places = torch.arange(batch["latents"].shape[-1])
    return batch | {"attention_mask": (places < torch.tensor(counts)[:, None]).float()}


def test_weights_are_those_of_the_hosts_own_loss(folder):
    """The host compares with the clean latents: a squared error, masked and weighted."""
    model = host_model("ace_step", folder)
    batch = lengths(host_batch(model), 6, 3, 1, 0)
    prediction = torch.randn_like(batch["latents"])
    hosts = model.loss(batch, {"model_prediction": prediction})
    ours = squared_error(prediction, batch["latents"], song_weights(batch)).mean()
    torch.testing.assert_close(ours, hosts)


def test_weights_are_one_in_whole_songs_and_none_without_a_mask(folder):
    batch = host_batch(host_model("ace_step", folder))
    weights = song_weights(lengths(batch, 6, 6, 3, 3))
    assert weights.shape == (4, 1, 1, 6)
    assert weights.flatten(1).tolist() == [[1.0] * 6] * 2 + [[0.5] * 3 + [0.0] * 3] * 2
    assert song_weights({"latents": batch["latents"]}) is None


@pytest.mark.parametrize("t", [1.0, 0.4, 0.001, 0.0])
def test_velocity_is_what_the_network_returns_at_any_time(t, folder):
    """Of the host's x_t - sigma v it cannot be had at sigma 0."""
    model = host_model("ace_step", folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    returned = []
    decode = model.model.decode

    def noting(*args, **kwargs):
        returned.append(decode(*args, **kwargs))
        return returned[-1]

    model.model.decode = noting
    times = torch.full((len(PROMPTS),), t)
    there = adapter.at(batch, batch["noisy_latents"], times, times, torch.ones_like(times))
    with torch.no_grad():
        velocity = adapter.velocity(model.model_predict(prepared_batch=dict(there)), there)
    torch.testing.assert_close(velocity, returned[0].sample, rtol=1e-5, atol=1e-5)
    assert adapter.sigma(there).tolist() == times.tolist()


def test_an_evaluation_gets_the_clean_prediction_that_the_hosts_loss_compares(folder):
    model = host_model("ace_step", folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    there = adapter.at_own_times(batch)
    assert VELOCITY not in there
    with torch.no_grad():
        found = model.model_predict(prepared_batch=dict(there))["model_prediction"]
        plain = host_model("ace_step", folder, twinflow_enabled=False)
        expected = plain.model_predict(prepared_batch=dict(batch))["model_prediction"]
    torch.testing.assert_close(found, expected)


def test_batch_has_noise_and_keeps_words_and_regularisation_and_loses_features_of_whole_songs(folder):
    model = host_model("ace_step", folder)
    batch = host_batch(model)
    assert batch["noise"].shape == batch["latents"].shape
    assert abs(batch["noise"].std().item() - 1) < 0.1
    assert batch["prompts"] == list(PROMPTS)
    given = {"latent_batch": batch["latents"], "prompt_embeds": batch["encoder_hidden_states"], "prompts": ["a"] * 4}
    features = [{SSL: [torch.zeros(3, 1024), torch.zeros(3, 768)]}] * 4
    given |= {"is_regularisation_data": True, "latent_metadata": features, EMPTY_PROMPT: {}}
    state = {"global_step": 0}
    found = model.prepare_batch(dict(given), state=state)
    assert is_regularisation(found)
    assert SSL not in found
    plain = host_model("ace_step", folder, twinflow_enabled=False)
    left = plain.prepare_batch(dict(given), state=state)
    assert SSL in left
    assert not {"noise", "prompts", "is_regularisation_data"} & left.keys()


def test_model_is_made_with_a_py3langid_that_has_another_name_for_its_reader(folder, caplog, monkeypatch):
    host_model("ace_step", folder)  # its test model brings the old name
    if hasattr(LanguageIdentifier, "from_model_file"):
        monkeypatch.delattr(LanguageIdentifier, "from_pickled_model")
    monkeypatch.setitem(ZOO, "ace_step", replace(ZOO["ace_step"], shrink=lambda: None))
    with pytest.raises(AttributeError, match="from_pickled_model"):
        host_model("ace_step", folder, twinflow_enabled=False)
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        host_model("ace_step", folder)
    assert "Mending SimpleTuner: ace_step finds the languages" in caplog.text
    assert not hasattr(LanguageIdentifier, "from_pickled_model")


def test_the_distiller_weighs_each_term_by_it(folder):
    model = host_model("ace_step", folder)
    batch = lengths(host_batch(model), 6, 3, 1, 2)
    distiller = TwinFlowDistiller.__new__(TwinFlowDistiller)
    distiller.family_model = family_model_of(model)
    assert distiller._mask(batch, 0).equal(song_weights(batch))
