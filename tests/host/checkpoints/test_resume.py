"""The host's own loading of checkpoints, in one process: with TwinFlow and without, whole and damaged."""

import pytest
import torch

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.checkpoints.files import STATE_FILE, TIME_CONDITIONING_FILE
from testbed.host_models.flow import host_batch
from testbed.host_models.trainer import save_hooks, training_step

ADAPTER, EMA = "pytorch_lora_weights.safetensors", "transformer_ema/ema_model.pt"


@pytest.fixture
def checkpoint(trainer, batch, save):
    """Of two steps."""
    for step in range(2):
        training_step(trainer, batch, step)
    return save(trainer)


def load(trainer, checkpoint):
    save_hooks(trainer).load_model_hook([trainer.model.get_trained_component()], str(checkpoint))


def weights(trainer):
    return {name: weight for name, weight in trainer.model.model.named_parameters() if weight.requires_grad}


def averages(trainer):
    return dict(zip(weights(trainer), trainer.ema_model.shadow_params, strict=True))


def same(one, other, names):
    return all(torch.equal(one[name], other[name]) for name in names)


def test_weights_and_averages_come_back_to_the_bit(checkpoint, trainer, make_trainer):
    resumed = make_trainer()
    assert not same(weights(resumed), weights(trainer), weights(trainer))
    load(resumed, checkpoint)
    assert same(weights(resumed), weights(trainer), weights(trainer))
    assert same(averages(resumed), averages(trainer), averages(trainer))
    assert resumed.ema_model.optimization_step == trainer.ema_model.optimization_step


def test_checkpoint_of_a_plain_run_starts_the_conditioning_from_zero(checkpoint, trainer, make_trainer, caplog):
    (checkpoint / STATE_FILE).unlink()
    resumed = make_trainer()
    before = {name: weight.clone() for name, weight in weights(resumed).items()}
    load(resumed, checkpoint)
    ours = [name for name in before if name.startswith("twinflow_")]
    assert same(weights(resumed), before, ours)
    assert same(weights(resumed), weights(trainer), before.keys() - ours)
    assert same(averages(resumed), before, ours)
    assert "was trained without TwinFlow: its time conditioning starts from zero" in caplog.text


def test_plain_run_goes_on_from_a_twinflow_run(checkpoint, trainer, make_trainer, caplog):
    plain = make_trainer(twinflow_enabled=False)
    assert not [name for name in weights(plain) if "twinflow" in name]
    load(plain, checkpoint)
    assert same(weights(plain), weights(trainer), weights(plain))
    assert same(averages(plain), averages(trainer), weights(plain))
    assert "was trained with TwinFlow; this run goes on without it" in caplog.text


def test_changed_settings_are_named(checkpoint, make_trainer, caplog):
    load(make_trainer(twinflow_loss="barron"), checkpoint)
    assert 'was trained with other settings: twinflow_loss "l2" -> "barron".' in caplog.text


def test_run_goes_on_for_another_number_of_steps_from_the_same_weights(checkpoint, trainer, make_trainer, caplog):
    """The times at which the modules are silent are the configuration's, and not in the checkpoint."""
    resumed = make_trainer(twinflow_target_step_count=2)
    load(resumed, checkpoint)
    assert "was trained with other settings: twinflow_target_step_count 1 -> 2." in caplog.text
    assert same(weights(resumed), weights(trainer), weights(trainer))
    conditioning = resumed.twinflow_model.time_conditioning_modules()["twinflow_target_time"]
    assert conditioning(torch.tensor([1.0]), torch.tensor([0.5])).abs().max() == 0
    assert conditioning(torch.tensor([1.0]), torch.tensor([0.0])).abs().max() > 0
    assert training_step(resumed, host_batch(resumed.model), 2).isfinite()


@pytest.mark.parametrize("file", [ADAPTER, EMA, str(TIME_CONDITIONING_FILE), str(STATE_FILE), ".guard"])
def test_damaged_checkpoint_is_refused_by_file_before_anything_of_it_is_loaded(file, checkpoint, make_trainer):
    if file == ".guard":
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_bytes(b"{")
    resumed = make_trainer(resume_from_checkpoint="latest")
    before = {name: weight.clone() for name, weight in weights(resumed).items()}
    named = f"{checkpoint} was not finished" if file == ".guard" else f"{checkpoint / file} is damaged"
    with pytest.raises(TwinFlowError) as error:
        load(resumed, checkpoint)
    assert str(error.value).startswith(named)
    assert "delete_invalid_checkpoints to true" in str(error.value)
    assert same(weights(resumed), before, before)
    assert same(averages(resumed), before, before)


def test_why_a_checkpoint_is_deleted_is_said(checkpoint, make_trainer, caplog):
    (checkpoint / EMA).write_bytes(b"")
    resumed = make_trainer(delete_invalid_checkpoints=True)
    with pytest.raises(TwinFlowError):
        load(resumed, checkpoint)
    assert "SimpleTuner deletes this checkpoint" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {key: value for key, value in state.items() if key != "shadow_params.0"}, "holds"),
        (lambda state: state | {"shadow_params.0": torch.zeros(2, 3)}, r"of shape \(2, 3\)"),
        (lambda state: {key: value for key, value in state.items() if key != "optimization_step"}, "optimization_step"),
    ],
    ids=["fewer", "another shape", "no counter"],
)
def test_averages_of_another_run_are_refused(change, words, checkpoint, make_trainer):
    torch.save(change(torch.load(checkpoint / EMA, weights_only=True)), checkpoint / EMA)
    with pytest.raises(TwinFlowError, match=words):
        load(make_trainer(), checkpoint)


@pytest.fixture
def output(make_trainer, tmp_path):
    """A trainer, and its output folder with two checkpoints, of which the second is not finished."""
    from simpletuner.helpers.utils.checkpoint_manager import CheckpointManager

    for step, finished in ((2, True), (4, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if finished:
            (folder / ".guard").touch()

    def trainer(**changes):
        made = make_trainer(**changes)
        made.checkpoint_manager = CheckpointManager(str(tmp_path))
        return made.checkpoint_state_latest(str(tmp_path))

    return trainer


def test_unfinished_checkpoint_is_passed_over_in_a_twinflow_run_alone(output, caplog):
    assert output() == "checkpoint-2"
    assert "checkpoint-4 was not finished when its run ended; resuming from checkpoint-2" in caplog.text
    assert output(twinflow_enabled=False) == "checkpoint-4"
    assert output(delete_invalid_checkpoints=True) == "checkpoint-4"  # the host deletes it then
