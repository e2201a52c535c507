"""`simpletuner-twinflow doctor`: examine the installation and a configuration, in some seconds and without a model."""

import argparse
import os
import subprocess
import sys
from typing import NamedTuple

HELP = "examine the installation and a config: versions, what a run would do and cost, every problem with its way out"
REPORT = "report:"  # the examination's line before its report; those above name what it comes to, the last where it is
LIMIT = 300  # seconds; some twenty on a sound machine, and a start of SimpleTuner where one is tried


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "config",
        nargs="?",
        help="a .json or .toml config (default: the one that `simpletuner train` reads in this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> None:
    """Examine, in a process of its own: the host's command is replaced there, and an import may end it or hang.

    Raises:
        SystemExit: with 1 where a run would be refused.
    """
    command = [sys.executable, "-P", "-m", "simpletuner_twinflow.host.doctor", f"--mark={REPORT}"]
    command += ["--json"] * arguments.json + [arguments.config] * (arguments.config is not None)
    found = _examination(command)
    if not found.told:
        ended = [f"--stuck={LIMIT}"] if found.code is None else [f"--ended={found.code}"]
        found = _examination([*command, *ended, *(f"--at={name}" for name in found.came_to[-1:])])
    print(found.report, end="")
    if found.code != 0:
        raise SystemExit(found.code or 1)


class Examination(NamedTuple):
    """What a process has said."""

    code: int | None  # its exit code; None where it was stopped at the time limit
    came_to: list[str]
    told: bool  # whether it came to its report
    report: str


def _examination(command: list[str]) -> Examination:
    environment = os.environ | {"SIMPLETUNER_SKIP_TORCH": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"}
    # The first is the host's own switch for a light import. What is examined is what the plugin does once it attaches;
    # that it is switched off is said.
    environment["SIMPLETUNER_TWINFLOW_DOCTOR_DISABLED"] = environment.pop("SIMPLETUNER_TWINFLOW_DISABLED", "")
    code: int | None
    try:
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, timeout=LIMIT
        )
        code, said = result.returncode, result.stdout
    except subprocess.TimeoutExpired as error:
        code, said = None, error.stdout or b""
    came_to, told, report = said.decode("utf-8", "backslashreplace").partition(f"{REPORT}{os.linesep}")
    return Examination(code, came_to.split(), bool(told), report)
