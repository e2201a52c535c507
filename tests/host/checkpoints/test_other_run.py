"""A whole checkpoint that does not fit the configuration is refused by key, and not deleted."""

from pathlib import Path

import pytest
from lycoris import LycorisNetwork, create_lycoris
from safetensors.torch import save_file

from simpletuner_twinflow.host.checkpoints.other_run import ADAPTER_FILE, OtherRunError, refuse_other_run


@pytest.fixture
def checkpoint(trainer, save):
    return save(trainer)


def test_own_checkpoint_passes(checkpoint, trainer):
    refuse_other_run(checkpoint, trainer.model)


def test_adapter_of_another_rank_is_refused_with_both_ranks(checkpoint, make_trainer):
    with pytest.raises(OtherRunError, match="holds an adapter of rank 2, and lora_rank is 3"):
        refuse_other_run(checkpoint, make_trainer(lora_rank=3).model)


def test_other_kind_of_training_is_refused_either_way(checkpoint, trainer):
    trainer.config.model_type = "full"
    with pytest.raises(OtherRunError, match="holds an adapter, and model_type is 'full'"):
        refuse_other_run(checkpoint, trainer.model)
    trainer.config.model_type = "lora"
    (checkpoint / ADAPTER_FILE).unlink()
    (checkpoint / trainer.model.MODEL_SUBFOLDER).mkdir()
    with pytest.raises(OtherRunError, match="holds a full model, and model_type is 'lora'"):
        refuse_other_run(checkpoint, trainer.model)


def lycoris_of(network, factor):
    LycorisNetwork.apply_preset({"target_module": ["Attention"]})
    lycoris = create_lycoris(network, 1.0, 4, 1, algo="lokr", factor=factor, warn_on_unmatched=False)
    lycoris.apply_to()
    return lycoris


def test_adapters_of_peft_and_lycoris_are_not_taken_for_each_other(checkpoint, trainer, tmp_path):
    network = trainer.model.get_trained_component(unwrap_model=True)
    trainer.model.accelerator._lycoris_wrapped_network = lycoris_of(network, 2)
    trainer.model.config.lora_type = "lycoris"
    with pytest.raises(OtherRunError, match="holds an adapter of PEFT, and lora_type is 'lycoris'"):
        refuse_other_run(checkpoint, trainer.model)
    save_file(trainer.model.accelerator._lycoris_wrapped_network.state_dict(), tmp_path / ADAPTER_FILE)
    refuse_other_run(tmp_path, trainer.model)
    trainer.model.accelerator._lycoris_wrapped_network = None
    trainer.model.config.lora_type = "standard"
    with pytest.raises(OtherRunError, match="holds a LyCORIS adapter, and lora_type is 'standard'"):
        refuse_other_run(tmp_path, trainer.model)


def test_lycoris_adapter_of_other_shapes_is_refused(trainer, tmp_path):
    network = trainer.model.get_trained_component(unwrap_model=True)
    save_file(lycoris_of(network, 2).state_dict(), tmp_path / ADAPTER_FILE)
    trainer.model.accelerator._lycoris_wrapped_network = lycoris_of(network, 4)
    with pytest.raises(OtherRunError, match="a LyCORIS adapter of other shapes, and lycoris_config is"):
        refuse_other_run(tmp_path, trainer.model)


def test_checkpoint_of_neither_kind_is_left_to_the_host(tmp_path, trainer):
    refuse_other_run(tmp_path, trainer.model)


@pytest.mark.parametrize(
    ("error", "deleted"),
    [
        (OtherRunError(Path("checkpoint-2"), "an adapter of rank 2", "lora_rank", 4), False),
        (ValueError("cut off"), True),
    ],
)
def test_host_deletes_what_is_damaged_and_not_what_is_of_another_run(error, deleted, trainer, tmp_path, monkeypatch):
    removed = []
    trainer.config.output_dir = str(tmp_path)
    monkeypatch.setattr(trainer, "checkpoint_state_remove", lambda *names: removed.append(names[1]))
    (tmp_path / "checkpoint-2").mkdir()
    try:
        raise error
    except type(error):
        done = trainer._delete_invalid_resume_checkpoint(str(tmp_path / "checkpoint-2"), "why")
    assert done is deleted
    assert removed == ["checkpoint-2"] * deleted
