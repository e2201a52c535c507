"""TwinFlow has the host load every family's network as it does without TwinFlow."""

from dataclasses import is_dataclass

import pytest
import torch

from testbed.host_models.flow import host_model
from testbed.host_models.zoo import ZOO


def settings(network):
    """A network's configuration."""
    return vars(network.config) if is_dataclass(network.config) else dict(network.config)


@pytest.mark.parametrize("family", ZOO)
def test_network_is_loaded_from_its_files_as_without_twinflow(family, folder):
    """In the dtype of ordinary runs; families that keep modules in float32 have a loader of their own for that."""
    plain, ours = (
        host_model(family, folder, dtype=torch.bfloat16, twinflow_enabled=enabled) for enabled in (False, True)
    )
    assert ours.pretrained_load_args({}) == plain.pretrained_load_args({})
    assert settings(ours.model) == settings(plain.model)
    expected, found = plain.model.state_dict(), ours.model.state_dict()
    assert expected.keys() == found.keys()
    assert [key for key, weight in expected.items() if not weight.equal(found[key])] == []
    assert {key: weight.dtype for key, weight in expected.items()} == {key: w.dtype for key, w in found.items()}
