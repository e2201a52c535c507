"""A regularisation set's rows rest where the network is its parent, and have none of TwinFlow's terms."""

import pytest
import torch

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.method.losses import squared_error
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows
from simpletuner_twinflow.method.regularisation import regularisation_losses
from tests.method.training_step import NEAR, ONE, Recorder, batch, prepared

OPTIONS = ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=0.5, guidance_reference="base")


@pytest.fixture
def rows():
    return prepared((NEAR,) * 6, OPTIONS, data=batch((NEAR,) * 6, (2, 4, 4)))


def test_the_loss_is_the_distance_from_the_parents_velocity_at_the_rows_own_times_without_guidance(rows):
    parent, prediction = Recorder(), torch.randn_like(rows.x_t)
    losses = regularisation_losses(rows, lambda: prediction, OPTIONS, parent)
    [(x_t, t, r, sign, prompts, _)] = parent.calls
    assert torch.equal(x_t, rows.x_t)
    assert torch.equal(t, rows.t)
    assert torch.equal(r, rows.t)
    assert (sign == 1).all()
    assert prompts.rows == (0, 1, 2, 3, 4, 5)
    assert not prompts.unconditional
    expected = squared_error(prediction, Recorder()(x_t, t, r, sign, prompts))
    torch.testing.assert_close(losses.total, expected.mean())
    assert losses.terms.keys() == {"regularisation"}
    assert losses.terms["regularisation"].rows == 6
    assert losses.forwards == {"student": 6, "regularisation": 6}


def test_a_network_that_is_its_parent_rests(rows):
    prediction = Recorder()(rows.x_t, rows.t, rows.r, rows.sign, PromptRows(tuple(range(6))))
    losses = regularisation_losses(rows, prediction.requires_grad_, OPTIONS, Recorder())
    assert losses.total == 0


def test_without_a_parent_it_is_the_distance_from_the_data(rows):
    prediction = torch.randn_like(rows.x_t)
    losses = regularisation_losses(rows, lambda: prediction, OPTIONS, None)
    torch.testing.assert_close(losses.total, squared_error(prediction, rows.z - rows.x).mean())
    assert losses.forwards["regularisation"] == 0


def test_weights_count_where_they_are_not_zero(rows):
    prediction, weights = torch.randn_like(rows.x_t), torch.zeros(6, 1, 4, 4)
    assert regularisation_losses(rows, lambda: prediction, OPTIONS, None, weights=weights).total == 0
    weights[..., :2] = 1.0
    half = squared_error(prediction[..., :2], (rows.z - rows.x)[..., :2]).mean() / 2
    losses = regularisation_losses(rows, lambda: prediction, OPTIONS, None, weights=weights)
    torch.testing.assert_close(losses.total, half)


def test_other_rows_are_refused():
    rows = prepared((NEAR, ONE), OPTIONS)
    with pytest.raises(TwinFlowError, match="rows are near, and these are near, one_step"):
        regularisation_losses(rows, lambda: rows.velocity, OPTIONS, None)
