"""Averages in checkpoints: an adapter's EMA file is that of a plain run, another run's average can be borrowed."""

import pytest
import torch
from simpletuner.helpers.training.save_hooks import SaveHookManager

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.checkpoints.ema import (
    EMA_SETTINGS,
    EMA_STEP,
    shadows_without_time_conditioning,
    time_conditioning_averages,
)
from simpletuner_twinflow.host.training.time_conditioning import TimeConditionedClass
from testbed.host_models.trainer import save_hooks


def parameters(trainer):
    return trainer.twinflow_model.time_conditioning_parameters()


def test_averages_are_the_emas_own_tensors_by_the_parameters_names(trained):
    found = time_conditioning_averages(trained.ema_model, trained.twinflow_model)
    by_name = dict(trained.model.model.named_parameters())
    names = [name for name, parameter in by_name.items() if parameter.requires_grad]
    for name, average in found.items():
        assert average is trained.ema_model.shadow_params[names.index(name)]


def test_inside_the_block_the_ema_is_a_plain_runs(trained):
    ema, every = trained.ema_model, list(trained.ema_model.shadow_params)
    with shadows_without_time_conditioning(ema, trained.twinflow_model):
        assert len(ema.shadow_params) == len(every) - len(parameters(trained))
    assert all(one is other for one, other in zip(ema.shadow_params, every, strict=True))


def test_host_saves_an_adapters_ema_without_the_conditioning(trained, tmp_path):
    manager = save_hooks(trained)
    manager._save_ema_state(str(tmp_path), is_main_process=True)
    saved = torch.load(manager._ema_checkpoint_path(str(tmp_path)), weights_only=True)
    shadows = [key for key in saved if key.startswith("shadow_params.")]
    assert len(shadows) == len(trained.ema_model.shadow_params) - len(parameters(trained))


def test_network_that_the_ema_is_saved_through_has_the_conditioning(trainer):
    assert isinstance(trainer.ema_model.model_cls, TimeConditionedClass)


def test_borrowed_ema_is_loaded_and_goes_on_as_the_config_says(trained, make_trainer, tmp_path):
    manager = save_hooks(trained)
    manager._save_ema_state(str(tmp_path), is_main_process=True)
    file = manager._ema_checkpoint_path(str(tmp_path))
    other = make_trainer(ema_decay=0.5)
    settings = {key: getattr(other.ema_model, key) for key in EMA_SETTINGS}
    other.config.init_lora, other.config.init_lora_ema = "the adapter", file
    other._load_initial_lora_ema_state()
    assert {key: getattr(other.ema_model, key) for key in EMA_SETTINGS} == settings
    ours = {id(average) for average in time_conditioning_averages(other.ema_model, other.twinflow_model).values()}
    pairs = zip(other.ema_model.shadow_params, trained.ema_model.shadow_params, strict=True)
    assert all(torch.equal(one, theirs) for one, theirs in pairs if id(one) not in ours)


def test_borrowed_ema_of_another_rank_is_refused(trained, make_trainer, tmp_path):
    manager = save_hooks(trained)
    manager._save_ema_state(str(tmp_path), is_main_process=True)
    other = make_trainer(lora_rank=3)
    other.config.init_lora_ema = manager._ema_checkpoint_path(str(tmp_path))
    with pytest.raises(TwinFlowError, match=r"init_lora_ema is .* it has an average of shape"):
        other._load_initial_lora_ema_state()


def test_counters_and_settings_are_those_that_the_host_saves():
    assert {*EMA_SETTINGS, EMA_STEP} == {*SaveHookManager.EMA_METADATA_KEYS}
