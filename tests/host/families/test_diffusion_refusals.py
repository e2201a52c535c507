"""Which epsilon and v runs start, and what is refused."""

import json
from pathlib import Path

import pytest
from simpletuner.helpers.configuration import loader

from simpletuner_twinflow import TwinFlowConfigError
from testbed.host_models.build import REQUIRED
from testbed.host_models.diffusion import MODELS

SAMPLE = Path(__file__).parents[3] / "sample_configs/sdxl-diff2flow-twinflow.json"


def load(**changes):
    given = json.loads(SAMPLE.read_text(encoding="utf-8"))
    required = {
        key: REQUIRED[key] for key in ("data_backend_config", "optimizer", "max_train_steps", "num_train_epochs")
    }
    return loader.load_config(given | required | changes)


def test_the_sample_config_is_accepted():
    assert load().twinflow_enabled is True


@pytest.mark.parametrize("family", sorted({tiny.family for tiny in MODELS.values()}))
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", None])
def test_proven_families_start_with_both_keys(family, kind):
    trained = {"model_type": "full"} if family == "pixart" else {}  # the host saves no adapter of it
    assert load(model_family=family, prediction_type=kind, **trained).twinflow_enabled is True


@pytest.mark.parametrize("changes", [{"diff2flow_enabled": False}, {"twinflow_allow_diff2flow": False}], ids="+".join)
def test_without_one_of_the_keys_the_refusal_names_both(changes):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(**changes)
    for words in ("prediction_type", "diff2flow_enabled", "twinflow_allow_diff2flow", "to true"):
        assert words in str(refusal.value)


REFUSED = [
    ({"model_family": "deepfloyd"}, ["deepfloyd", "diff2flow_enabled", "sdxl"]),
    ({"prediction_type": "sample"}, ["prediction_type", "'sample'", "v_prediction"]),
    ({"prediction_type": "flow_matching"}, ["prediction_type", "'flow_matching'", "v_prediction"]),
    ({"snr_gamma": 5}, ["snr_gamma", "5", "remove it"]),
    ({"use_soft_min_snr": True, "soft_min_snr_sigma_data": 1}, ["use_soft_min_snr", "set it to false"]),
    ({"offset_noise": True}, ["offset_noise", "set it to false"]),
    ({"refiner_training": True}, ["refiner_training", "set it to false"]),
]


@pytest.mark.parametrize(
    ("changes", "words"), REFUSED, ids=lambda value: "+".join(value) if type(value) is dict else ""
)
def test_what_an_epsilon_or_v_run_cannot_honour_is_refused_by_name(changes, words):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(**changes)
    for word in words:
        assert word in str(refusal.value)
