"""A message lists all problems; copies and pickles keep them apart."""

import copy
import pickle

import pytest

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.declaration import RefusedSettingsError


def test_one_problem_is_the_message_and_several_are_numbered():
    assert str(TwinFlowConfigError("a is 1.")) == "a is 1."
    message = "2 problems in this configuration:\n  1. a is 1.\n  2. b is 2."
    assert str(TwinFlowConfigError("a is 1.", "b is 2.")) == message


@pytest.mark.parametrize("error", [TwinFlowConfigError("a", "b"), RefusedSettingsError({"x": "a", "y": "b"})])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_copies_keep_the_problems(error, copied):
    other = copied(error)
    assert type(other) is type(error)
    assert (other.problems, str(other), vars(other)) == (("a", "b"), str(error), vars(error))
