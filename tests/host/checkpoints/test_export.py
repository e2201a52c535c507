"""The weights that a finished run exports, where the host saves them: a final adapter, a full model's pipeline."""

import diffusers
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from simpletuner.helpers.models.common import PipelineTypes

from simpletuner_twinflow.host.checkpoints.export import stock_scheduler_of, weights_to_export
from simpletuner_twinflow.host.run import exported_weights
from testbed.host_models.demo import demo_model
from testbed.host_models.trainer import host_trainer

FILE = "pytorch_lora_weights.safetensors"


def apart(trainer):
    """Move the averages away from the weights."""
    for shadow in trainer.ema_model.shadow_params:
        shadow.add_(0.5)
    return trainer


def is_ours(scheduler, trainer):
    """Whether it has all the settings of the run's stock scheduler."""
    config = stock_scheduler_of(trainer.model).config
    wanted = {name: value for name, value in config.items() if not name.startswith("_")}
    return {name: scheduler.config[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("export", "use_ema", "wanted"),
    [("auto", True, "ema"), ("auto", False, "student"), ("student", True, "student"), ("ema", True, "ema")],
)
def test_exported_weights_are_those_asked_for_and_by_default_the_emas(export, use_ema, wanted, trainer):
    trainer.config.twinflow_export_weights, trainer.config.use_ema = export, use_ema
    assert exported_weights(trainer.config) == wanted


@pytest.mark.parametrize("export", ["ema", "student"])
def test_inside_the_block_the_weights_are_those_to_export_and_after_it_the_students(export, make_trainer):
    trainer = apart(make_trainer(twinflow_export_weights=export))
    parameters = trainer._get_trainable_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    with weights_to_export(trainer):
        inside = trainer.ema_model.shadow_params if export == "ema" else before
        assert all(map(torch.equal, parameters, inside))
    assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize("export", ["ema", "student"])
def test_final_adapter_holds_the_weights_asked_for_and_a_checkpoints_the_students(export, make_trainer, tmp_path):
    trainer = apart(make_trainer(twinflow_export_weights=export, output_dir=str(tmp_path)))
    student = {
        key: value.clone() for key, value in get_peft_model_state_dict(trainer.model.get_trained_component()).items()
    }
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        trainer.model.save_lora_weights(save_directory=str(folder), transformer_lora_layers=student)
    final, checkpoint = (load_file(folder / FILE) for folder in (tmp_path, tmp_path / "checkpoint-2"))
    assert final.keys() == checkpoint.keys()
    moved = [key for key in final if not torch.equal(final[key], checkpoint[key])]
    assert moved == (list(final) if export == "ema" else [])
    for key in moved:
        torch.testing.assert_close(final[key], checkpoint[key] + 0.5)


def test_stock_scheduler_lies_beside_the_final_adapter_alone(make_trainer, tmp_path):
    trainer = make_trainer(output_dir=str(tmp_path))
    layers = get_peft_model_state_dict(trainer.model.get_trained_component())
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        trainer.model.save_lora_weights(save_directory=str(folder), transformer_lora_layers=layers)
    saved = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    assert is_ours(saved, trainer)
    assert not (tmp_path / "checkpoint-2/scheduler").exists()


def test_run_without_ema_is_told_that_it_exports_the_student(make_trainer, caplog):
    make_trainer(use_ema=False, twinflow_require_ema=False)
    assert 'twinflow_export_weights "auto" exports the student\'s weights' in caplog.text


def test_full_models_pipeline_saves_itself_in_stock_classes_with_our_scheduler(in_folder, tmp_path):
    trainer = host_trainer(demo_model())
    trainer.model.get_pipeline(PipelineTypes.TEXT2IMG).save_pretrained(tmp_path)
    stock = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path)
    assert type(stock.transformer) is diffusers.SD3Transformer2DModel
    assert is_ours(stock.scheduler, trainer)
    trained = trainer.model.get_trained_component().state_dict()
    left_out = {key for key in trained if key.startswith("twinflow_")}
    assert left_out
    assert stock.transformer.state_dict().keys() == trained.keys() - left_out
    assert all(torch.equal(weight, trained[key]) for key, weight in stock.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("export", "stored", "copied"), [("student", False, False), ("student", True, True), ("ema", False, True)]
)
def test_students_weights_stay_where_they_are_to_be_exported_and_the_host_would_copy_for_good(
    export, stored, copied, make_trainer
):
    trainer = apart(make_trainer(twinflow_export_weights=export))
    parameters = trainer._get_trainable_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    if stored:
        trainer.ema_model.store(parameters)
    trainer.ema_model.copy_to(parameters)
    assert all(map(torch.equal, parameters, trainer.ema_model.shadow_params if copied else before))
