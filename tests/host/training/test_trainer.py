"""The host's trainer in a TwinFlow run: our distiller and loss; in any other run the host's own, untouched."""

import pytest
import torch
from simpletuner.helpers.distillation.factory import DistillerFactory
from simpletuner.helpers.training import collate
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow.host.training.distiller import TwinFlowDistiller
from simpletuner_twinflow.host.training.trainer import HOST_SIGN_EMBED, UNCONDITIONAL, distiller_of
from testbed.host_models.build import host_config
from testbed.host_models.flow import host_model
from testbed.host_models.trainer import training_step

OFF, HOSTS = {"twinflow_enabled": False}, {"twinflow_implementation": "host"}


def test_twinflow_run_has_our_distiller_and_the_same_family_model_everywhere(trainer):
    assert type(distiller_of(trainer)) is TwinFlowDistiller
    assert trainer.twinflow_model is trainer.model.twinflow_model is trainer.distiller.family_model


@pytest.mark.parametrize(
    "changes", [{"twinflow_enabled": False}, {"twinflow_implementation": "host"}], ids=["off", "host"]
)
def test_run_that_we_do_not_train_has_nothing_of_ours(changes, make_trainer):
    trainer = make_trainer(**changes)
    assert distiller_of(trainer) is None
    assert not hasattr(trainer, "twinflow_model")
    assert not [name for name, _ in trainer.model.model.named_parameters() if "twinflow" in name]


def test_host_is_given_our_loss_and_no_logs_that_would_wait_for_the_device(trainer, batch):
    prepared = trainer.distiller.prepare_batch(batch, trainer.model, {"global_step": 0})
    loss, logs, diffusion_loss, auxiliary, distillers = trainer._compute_model_prediction_loss(prepared)
    assert torch.equal(loss, trainer.distiller.training_loss(prepared)[0])
    assert diffusion_loss is loss
    assert (logs, auxiliary, distillers) == (None, None, {})


def test_step_trains_the_adapter_and_the_conditioning_and_nothing_else(trainer, batch):
    before = {name: weight.detach().clone() for name, weight in trainer.model.model.named_parameters()}
    for step in range(2):  # the second factor of an adapter is zero at first
        training_step(trainer, batch, step)
    moved = {name for name, weight in trainer.model.model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name for name in moved if "lora_" not in name and not name.startswith("twinflow_")} == set()
    assert any("lora_A" in name for name in moved)
    assert any(name.startswith("twinflow_target_time") for name in moved)


@pytest.mark.parametrize(
    ("changes", "active"), [({}, False), ({"twinflow_implementation": "host"}, True)], ids=["ours", "host"]
)
def test_exactly_one_implementation_runs(changes, active, folder, in_folder):
    model = host_model("sd3", folder, **changes)
    assert model._twinflow_active() is active
    assert (HOST_SIGN_EMBED in model.pretrained_load_args({})) is active


def test_users_own_load_arguments_stay(folder, in_folder):
    assert host_model("sd3", folder).pretrained_load_args({HOST_SIGN_EMBED: True})[HOST_SIGN_EMBED] is True


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"twinflow_enhanced_ratio": 0.5}, {UNCONDITIONAL}),
        ({"twinflow_enhanced_ratio": 0.0}, set()),
        (OFF, set()),
    ],
    ids=["guidance", "no guidance", "off"],
)
def test_empty_prompt_is_asked_for_where_guidance_is_trained_in(changes, wanted, make_trainer, monkeypatch):
    monkeypatch.setattr(StateTracker, "args", make_trainer(**changes).config)
    assert DistillerFactory.training_batch_requirements(None, {}) == wanted
    assert collate._distillation_training_batch_requirements() == wanted


def test_family_that_has_zeros_for_no_prompt_asks_for_no_empty_one(folder, in_folder, monkeypatch):
    config = host_config("minimaxmusic", folder, model_type="lora", twinflow_enhanced_ratio=0.5)
    monkeypatch.setattr(StateTracker, "args", config)
    assert DistillerFactory.training_batch_requirements(None, {}) == set()
    assert collate._distillation_training_batch_requirements() == set()
