"""What the tests of the families share."""

import pytest

from testbed.host_models.flow import pipeline_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """What a model reads of a pipeline before its network is loaded."""
    return pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    """The host looks for files that a config names in the working directory."""
    monkeypatch.chdir(folder)
