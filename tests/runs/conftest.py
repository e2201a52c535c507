"""The host's runs, shared by the tests of this folder."""

import pytest

from tests.runs.harness import Host, Runs
from tests.runs.recipes import RECIPES


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
