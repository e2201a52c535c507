"""What a checkpoint says of its run comes back, and what a run with another configuration changes is named."""

import json
from dataclasses import asdict

import pytest

from simpletuner_twinflow import TwinFlowError, TwinFlowOptions
from simpletuner_twinflow.host.checkpoints.files import STATE_FILE
from simpletuner_twinflow.host.checkpoints.saved_run import (
    HOST_KEYS,
    SavedRun,
    Trained,
    save_run,
    saved_by,
    settings_of,
)
from testbed.host_models.build import host_config


@pytest.fixture
def written(trainer, tmp_path):
    """A checkpoint's folder with what the trainer's run says of itself."""
    save_run(trainer.model, trainer.optimizer, 2, tmp_path)
    return tmp_path


def test_run_comes_back_from_its_file(written, trainer):
    run = saved_by(written)
    assert run.trained == Trained.of(trainer.model, trainer.optimizer)
    assert run.settings == settings_of(trainer.config, 2)
    assert run.changes(trainer.config, 2) == []


def test_plain_run_has_no_such_file(tmp_path):
    assert saved_by(tmp_path) is None


def test_parameters_are_named_in_the_order_of_optimizer_and_averages(trainer):
    trained, network = Trained.of(trainer.model, trainer.optimizer), trainer.model.get_trained_component()
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained.optimizer == [names]
    assert trained.ema == names
    assert len(trained.ema) == len(trainer.ema_model.shadow_params)
    assert trained.time_conditioning == [name for name in names if name.startswith("twinflow_")]
    assert any(".lora_A" in name for name in names)


def test_what_is_left_out_is_left_out_everywhere(trainer):
    trained = Trained.of(trainer.model, trainer.optimizer)
    left = trained.without(trained.time_conditioning)
    assert left.time_conditioning == []
    assert left.optimizer == [left.ema]
    assert {*trained.ema} - {*left.ema} == {*trained.time_conditioning}


def test_settings_are_every_option_and_the_hosts_keys_that_shape_training(trainer):
    assert settings_of(trainer.config, 1).keys() == {*TwinFlowOptions.keys(), *HOST_KEYS, "processes"}


def test_changes_are_named_with_both_values(written, folder, in_folder):
    config = host_config("sd3", folder, model_type="lora", train_batch_size=4, twinflow_loss="barron", seed=2)
    changes = saved_by(written).changes(config, processes=1)
    assert changes == ['twinflow_loss "l2" -> "barron"', "seed 1 -> 2", "processes 2 -> 1"]


def test_reference_of_guidance_is_saved_as_what_auto_stands_for(written, folder, in_folder):
    given = {"model_type": "lora", "train_batch_size": 4, "twinflow_guidance_scale": 3}
    config = host_config("sd3", folder, **given, twinflow_guidance_reference="ema")
    assert saved_by(written).changes(config, processes=2) == [
        "twinflow_guidance_scale null -> 3.0",
        'twinflow_guidance_reference "base" -> "ema"',
    ]
    same = host_config("sd3", folder, model_type="lora", train_batch_size=4, twinflow_guidance_reference="base")
    assert saved_by(written).changes(same, processes=2) == []


def test_key_that_one_of_the_versions_does_not_have_is_a_change(trainer):
    settings = settings_of(trainer.config, 1)
    del settings["seed"]
    run = SavedRun("0", Trained([], [], []), settings | {"twinflow_gone": 3})
    assert run.changes(trainer.config, 1) == ["twinflow_gone 3 -> null", "seed null -> 1"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: "[]",
        lambda content: "{}",
        lambda content: "",
        lambda content: json.dumps(json.loads(content) | {"unknown": 1}),
        lambda content: json.dumps(json.loads(content) | {"settings": []}),
        lambda content: json.dumps(json.loads(content) | {"trained": asdict(Trained([], [], [])) | {"ema": "a"}}),
    ],
    ids=["cut off", "a list", "nothing", "empty", "an unknown entry", "no settings", "no list of names"],
)
def test_damaged_file_is_an_error_that_names_it(change, written):
    file = written / STATE_FILE
    file.write_text(change(file.read_text()))
    with pytest.raises(TwinFlowError, match=r"state\.json is damaged \("):
        saved_by(written)
