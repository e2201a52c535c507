"""What all tests share."""

import os

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# The same examples in every run of the same tests, and no limit of time for one, which a busy machine would miss.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


def pytest_addoption(parser):
    parser.addoption("--recipes", nargs="+", help="only tests that look at these runs of the host, and at no others")


def pytest_collection_modifyitems(config, items):
    """What looks at a run of the host is marked `host`, and comes first: the runs take longest.

    What needs a CUDA device is left out where there is none, and what takes minutes where it is not asked for.
    """
    absent = [] if torch.cuda.is_available() else ["gpu"]
    absent += [] if "QUALITY_SEEDS" in os.environ else ["order"]
    absent += [] if "SOAK" in os.environ else ["soak"]
    absent += [] if "DEEPSPEED" in os.environ else ["deepspeed"]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in absent)]
    if (recipes := config.getoption("recipes")) is not None:
        left_out += [item for item in items if not set() < _recipes_of(item) <= {*recipes}]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if item.get_closest_marker("host_runs"):
            item.add_marker("host")
    items.sort(key=lambda item: item.get_closest_marker("host_runs") is None)


def _recipes_of(item):
    return {name for mark in item.iter_markers("host_runs") for name in mark.args}


class ByFile(LoadScopeScheduling):
    """Gives a worker whole files, whose fixtures are then made once, and one worker all that looks at runs."""

    def _split_scope(self, nodeid):
        return "tests/runs" if nodeid.startswith("tests/runs/") else nodeid.split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A private stream, as the training step is given one."""
    return torch.Generator().manual_seed(1)
