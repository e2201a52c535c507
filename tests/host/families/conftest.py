"""What the tests of the families share."""

import pytest


@pytest.fixture(autouse=True)
def each_in_folder(in_folder):
    """The host looks for files that a config names in the working directory."""
