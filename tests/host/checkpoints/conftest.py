"""What these tests share."""

import pytest

from testbed.host_models.trainer import training_step


@pytest.fixture
def trained(trainer, batch):
    """A trainer whose averages are no longer its weights."""
    for step in range(3):
        training_step(trainer, batch, step)
    return trainer
