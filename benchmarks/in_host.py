"""Runs of the installed host for the benchmarks, with something of ours that watches inside."""

import os
from collections.abc import Mapping
from pathlib import Path

from testbed.forkserver import ForkServer
from testbed.trainer import ROOT, cpu_environment

LOG_END = 2000  # letters of a failed run's log


def host_server(folder: Path) -> ForkServer:
    """A server whose runs can import the benchmarks. Args: folder: for what the server itself prints."""
    environment = dict(os.environ) | cpu_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "testbed/cpu")])
    return ForkServer(environment, folder / "forkserver.txt")


def watched(server: ForkServer, run: Path, given: Mapping[str, str], watch: str, limit: float) -> None:
    """Make the run of a folder that `write_run` has filled.

    Args:
        given: environment variables of the run.
        watch: "module:function" called in the run before its trainer starts.
        limit: seconds.

    Raises:
        RuntimeError: The run failed; its log's end is in the message.
    """
    log = run / "log.txt"
    if code := server.start(run, log, given, limit, prelude=watch).result():
        raise RuntimeError(f"{run.name} ended with {code}: {log.read_text(encoding='utf-8')[-LOG_END:]}")
