"""What a rank says of its auxiliary losses, which in a group of processes all must say alike."""

from dataclasses import replace

import pytest

from simpletuner_twinflow.host.training.auxiliary import auxiliary_loss
from simpletuner_twinflow.host.training.distiller import ROWS
from simpletuner_twinflow.method.roles import Role

TWINS = {"near": 1, "twin": 3}


def found(trainer, batch, role):
    """The logs of rows of one role."""
    prepared = trainer.distiller.prepare_batch(batch, trainer.model, {"global_step": 0})
    rows = prepared[ROWS]
    assert rows.having(role)
    output = trainer.model.model_predict(prepared_batch=dict(prepared))
    loss = output["model_prediction"].mean()
    only = replace(rows, roles=(role,) * len(rows.roles))
    return auxiliary_loss(trainer.model, output, prepared, only, loss)[1]


@pytest.mark.parametrize("role", [Role.twin, Role.near])
def test_loss_that_the_host_has_switched_off_leaves_every_rank_with_logs(role, make_trainer, batch):
    """U-REPA is for UNets: the host says so and goes on without it. Where there are logs it gathers from all ranks."""
    settings = {"twinflow_role_shares": TWINS, "twinflow_adversarial_enabled": True}
    assert found(make_trainer(urepa_enabled=True, **settings), batch, role) == {}
    assert found(make_trainer(**settings), batch, role) is None
