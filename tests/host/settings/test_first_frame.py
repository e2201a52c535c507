"""What cannot be trained where the network is given a film's first frame, through the host's real parser."""

import json

import pytest

from simpletuner_twinflow import TwinFlowConfigError
from tests.host.settings.configs import SEED, load

pytestmark = pytest.mark.usefixtures("configuration_folder")
FILMS = {
    "model_family": "cosmos3",
    "model_flavour": "super-i2v",
    "validation_num_video_frames": 49,
    "lora_type": "lycoris",
    "lycoris_config": "lycoris.json",
}
ANEW = {"twinflow_target_step_count": 2, "twinflow_time_conditioning": "signed_time"}
REFUSED = [
    (ANEW, "video", 'twinflow_target_step_count is 2 and .*set twinflow_time_conditioning to "training_only"'),
    ({"validation_num_video_frames": None}, "video", "validation_num_video_frames is .*the datasets' videos"),
    ({"validation_num_video_frames": 1}, "video", "validation_num_video_frames is .*validation_disable to true"),
    ({}, "image", 'dataset_type is "image".*use datasets of "video"'),
    ({}, None, 'dataset_type is null.*use datasets of "video"'),
]


@pytest.mark.parametrize(("run", "kind", "said"), REFUSED)
def test_what_such_a_flavour_cannot_learn_is_refused_and_of_others_is_not(run, kind, said, tmp_path):
    backend = tmp_path / "data.json"
    sets = [{"id": "clips", "type": "local", "dataset_type": kind}, {"id": "text", "dataset_type": "text_embeds"}]
    backend.write_text(json.dumps(sets), encoding="utf-8")
    config = FILMS | {"data_backend_config": str(backend)} | run
    with pytest.raises(TwinFlowConfigError, match=said):
        load(SEED, **config)
    load(SEED, **config | {"model_flavour": "super"})


@pytest.mark.parametrize(
    "run",
    [
        {},
        ANEW | {"twinflow_time_conditioning": "training_only"},
        {"validation_num_video_frames": 1, "validation_disable": True},
    ],
)
def test_such_a_flavour_is_trained_on_films(run, tmp_path):
    backend = tmp_path / "data.json"
    backend.write_text(json.dumps([{"id": "clips", "type": "local", "dataset_type": "video"}]), encoding="utf-8")
    load(SEED, **FILMS | {"data_backend_config": str(backend)} | run)
