"""The host's runs, shared by the tests of this folder."""

import pytest

from tests.host.harness import Host, Runs
from tests.host.recipes import RECIPES


def pytest_configure(config):
    config.addinivalue_line("markers", "host_runs(*names): the runs of the real host (recipes.py) that a test looks at")


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory):
    """Runs by name; only those that a selected test is marked with are started."""
    asked = {name for item in request.session.items for mark in item.iter_markers("host_runs") for name in mark.args}
    host = Host(tmp_path_factory.mktemp("host"))
    yield Runs(host, {name: RECIPES[name] for name in RECIPES if name in asked})
    host.close()
