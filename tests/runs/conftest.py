"""The host's runs, shared by the tests of this folder."""

import pytest

from tests.runs.harness import Host, Runs
from tests.runs.recipes import RECIPES


def pytest_configure(config):
    config.addinivalue_line("markers", "host_runs(*names): the runs of the real host (recipes.py) that a test looks at")


def pytest_collection_modifyitems(items):
    """Tests that wait for a run come last, so that the runs are made meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("host_runs") is not None)


@pytest.fixture(scope="session", autouse=True)
def runs(request, tmp_path_factory):
    """Runs by name; only those that a selected test is marked with are started, and those with the first test."""
    asked = {name for item in request.session.items for mark in item.iter_markers("host_runs") for name in mark.args}
    if not asked:
        yield None
        return
    host = Host(tmp_path_factory.mktemp("host"))
    yield Runs(host, {name: RECIPES[name] for name in RECIPES if name in asked})
    host.close()
