"""What is read of a data config."""

import json

import pytest

from simpletuner_twinflow.host.settings.budget import ONE_PICTURE
from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.host.settings.data_config import (
    DataConfigError,
    datasets_of,
    has_regularisation,
    is_one_picture,
    only_regularisation,
)
from simpletuner_twinflow.host.settings.examined import examined
from simpletuner_twinflow.options import TwinFlowOptions
from tests.host.settings.configs import SEED


@pytest.fixture
def write(tmp_path):
    def written(content):
        file = tmp_path / "data.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(file)

    return written


def test_disabled_datasets_are_left_out(write):
    found = datasets_of(write([{"id": "a"}, {"id": "b", "disabled": True}, {"id": "c", "disable": True}]))
    assert [dataset["id"] for dataset in found] == ["a"]


@pytest.mark.parametrize("path", [None, 3, "nowhere.json"])
def test_a_file_that_is_not_there_has_none(path):
    assert datasets_of(path) == []
    assert not has_regularisation(path)


@pytest.mark.parametrize("key", ["is_regularisation_data", "is_regularization_data"])
def test_regularisation_is_seen_under_both_names(key, write):
    assert has_regularisation(write([{"id": "a"}, {"id": "b", key: True}]))
    assert not has_regularisation(write([{"id": "a"}, {"id": "b", key: True, "disabled": True}]))
    assert not has_regularisation(write([{"id": "a"}, {"id": "b", key: False}]))


def test_regularisation_alone_is_told_from_a_set_beside_another(write):
    kept, text = {"id": "a", "is_regularisation_data": True}, {"id": "t", "dataset_type": "text_embeds"}
    assert only_regularisation([kept, text])
    assert not only_regularisation([kept, text, {"id": "b"}])
    assert not only_regularisation([text])
    options = TwinFlowOptions(enabled=True)
    config = {"model_family": "sd3", "model_type": "lora", "use_ema": True, "data_backend_config": write([kept, text])}
    [line] = conflicts(config, options)
    assert "every set of pictures is one of regularisation" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read as JSON"), ({}, "found an object"), ([1], "found 1 in the list"), ('"a"', 'found "a"')],
)
def test_what_is_no_list_of_objects_is_said(content, said, write):
    with pytest.raises(DataConfigError, match=said) as error:
        datasets_of(write(content))
    assert str(error.value).startswith("data_backend_config is ")
    assert str(error.value).endswith("Mend the file.")


@pytest.mark.parametrize(
    ("changes", "files", "one"),
    [
        ({}, ["a.png", "a.txt", "aspect_ratio_bucket_indices.json"], True),
        ({"dataset_type": "image"}, ["deep/in/a.webp"], True),
        ({}, ["a.png", "deep/b.png"], False),
        ({}, ["a.txt"], False),
        ({"dataset_type": "video"}, ["a.mp4"], False),
        ({"type": "parquet"}, ["a.parquet"], False),
        ({"instance_data_dir": None}, ["a.png"], False),
    ],
)
def test_data_of_one_picture_are_told_from_others(changes, files, one, write, tmp_path):
    folder = tmp_path / "pictures"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    mine = {"id": "mine", "type": "local", "instance_data_dir": str(folder)} | changes
    texts = {"id": "texts", "type": "local", "dataset_type": "text_embeds"}
    assert is_one_picture(write([mine, texts])) is one
    assert not is_one_picture(write([mine, mine]))
    assert not is_one_picture(write("{"))


def test_report_says_where_the_data_are_one_picture(write, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").touch()
    path = write([{"id": "mine", "type": "local", "instance_data_dir": str(tmp_path / "pictures")}])
    assert ONE_PICTURE in examined(SEED | {"data_backend_config": path})["overridden"]
    unmeasured = SEED | {"data_backend_config": path, "twinflow_quality_samples": 0}
    assert ONE_PICTURE not in examined(unmeasured)["overridden"]
