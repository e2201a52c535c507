"""The scan of an image set: queues for threads in a TwinFlow run, the host's own elsewhere."""

import multiprocessing.queues
import queue
import tracemalloc

import pytest
from simpletuner.helpers.metadata.backends import base
from simpletuner.helpers.training.state_tracker import StateTracker

from testbed.host_models.build import host_config

THREADS, PROCESSES = queue.Queue, multiprocessing.queues.Queue


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, THREADS),
        ({"twinflow_enabled": False}, PROCESSES),
        ({"twinflow_implementation": "host"}, PROCESSES),
        ({"enable_multiprocessing": True}, PROCESSES),
    ],
    ids=["TwinFlow", "off", "the host's", "processes"],
)
def test_queue_is_for_what_the_scan_runs_in(changes, kind, folder, in_folder, monkeypatch):
    monkeypatch.setattr(StateTracker, "args", host_config("sd3", folder, **changes))
    assert type(base.Queue()) is kind


def test_before_a_run_has_a_configuration_the_queue_is_the_hosts(monkeypatch):
    monkeypatch.setattr(StateTracker, "args", None)
    assert type(base.Queue()) is PROCESSES


@pytest.mark.parametrize(
    ("changes", "traced"),
    [({}, False), ({"twinflow_enabled": False}, True), ({"twinflow_implementation": "host"}, True)],
    ids=["TwinFlow", "off", "the host's"],
)
def test_scans_processes_are_forked_without_traced_memory(changes, traced, folder, in_folder, monkeypatch):
    monkeypatch.setattr(StateTracker, "args", host_config("sd3", folder, enable_multiprocessing=True, **changes))
    tracemalloc.start()
    try:
        scan = base.Process(target=print)
        assert tracemalloc.is_tracing() is traced
        assert isinstance(scan, multiprocessing.process.BaseProcess)
    finally:
        tracemalloc.stop()
