"""Every family that is accepted in groups of processes computes there what it computes whole."""

import pytest

from simpletuner_twinflow.host.settings.context_parallel import IN_PARTS
from testbed.host_models.in_parts import found_of


@pytest.mark.parametrize("family", sorted(IN_PARTS))
def test_output_and_gradient_in_parts_are_those_of_the_whole(family):
    found = found_of(family)
    assert "error" not in found, found
    assert found["output"] < 1e-5
    assert found["gradient"] < 1e-5
