"""Distances between velocities, against changes of the network whose effect is known."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from simpletuner_twinflow.host.drawing.fields import distances
from testbed.host_models.flow import host_batch


@contextmanager
def scaled(network, factor):
    """The network's velocity times a number: its last layer is linear."""
    last = (network.proj_out.weight, network.proj_out.bias)
    with torch.no_grad():
        for parameter in last:
            parameter.mul_(factor)
        yield
        for parameter in last:
            parameter.div_(factor)


def test_distances_are_shares_of_the_second_velocity(trainer):
    model, batch = trainer.distiller.family_model, host_batch(trainer.model)
    network = trainer.model.model
    found = distances(
        model,
        [batch, batch],
        seed=1,
        teacher=lambda: scaled(network, 2.0),
        base=lambda: scaled(network, 4.0),
        empty_prompt=True,
    )
    assert found == {
        "student_to_teacher": pytest.approx(0.5, rel=1e-4),
        "student_to_base": pytest.approx(0.75, rel=1e-4),
        "empty_prompt_drift": pytest.approx(0.75, rel=1e-4),
    }


def test_what_is_not_there_is_left_out_and_equal_weights_are_no_distance(trainer, batch):
    model = trainer.distiller.family_model
    assert distances(model, [batch], 1, teacher=None, base=None, empty_prompt=False) == {}
    assert distances(model, [batch], 1, teacher=nullcontext, base=None, empty_prompt=False) == {"student_to_teacher": 0}
