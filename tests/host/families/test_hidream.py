"""HiDream's experts note a loss at each pass, in a list that the host's own loss empties and TwinFlow's must."""

import pytest
from simpletuner.helpers.models.hidream.transformer import get_load_balancing_loss
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.training.distiller import TwinFlowDistiller
from simpletuner_twinflow.host.training.trainer import active_options, forget_expert_losses
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_batch, host_model


@pytest.fixture
def trainer(folder):
    """The host's trainer with a tiny HiDream whose gates note their losses."""
    model = host_model("hidream", folder)
    gates = [module for module in model.model.modules() if hasattr(module, "seq_aux")]
    assert gates, "the tiny network has experts"
    for gate in gates:
        gate.alpha, gate.seq_aux = 0.1, False
    model.model.train()
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.model, trainer.accelerator = model.config, model, model.accelerator
    trainer.ema_model = None
    trainer.model_predict = model.model_predict  # without the trainer's rollout, which is off
    model.twinflow_model, options = family_model_of(model), settled(active_options(model.config), "full")
    trainer.distiller = TwinFlowDistiller(trainer, options, model.twinflow_model)
    return trainer


def test_noted_losses_do_not_pile_up(trainer):
    for step in range(2):
        batch = trainer.distiller.prepare_batch(host_batch(trainer.model), trainer.model, {"global_step": step})
        trainer.model.model_predict(prepared_batch=dict(batch))
        assert get_load_balancing_loss(), "a pass notes losses"
        loss, *_ = trainer._compute_model_prediction_loss(batch)
        loss.backward()
        assert get_load_balancing_loss() == []


def test_other_families_import_nothing_of_hidream(trainer):
    trainer.model.model_predict(prepared_batch=dict(host_batch(trainer.model)))
    noted = len(get_load_balancing_loss())
    trainer.config.model_family = "sd3"
    forget_expert_losses(trainer.config)
    assert len(get_load_balancing_loss()) == noted > 0
    trainer.config.model_family = "hidream"
    forget_expert_losses(trainer.config)
    assert get_load_balancing_loss() == []
