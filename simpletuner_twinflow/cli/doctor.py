"""`simpletuner-twinflow doctor`: examine the installation and a configuration, in some seconds and without a model."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping

HELP = "examine the installation and a config: versions, what a run would do and cost, every problem with its way out"
ENDS = (0, 1, 2)  # exit codes of an examination that came to its end, or of wrong arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "config",
        nargs="?",
        help="a .json or .toml config (default: the one that `simpletuner train` reads in this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> None:
    """Examine, in a process of its own: the host's command is replaced there.

    Raises:
        SystemExit: with 1 where a run would be refused.
    """
    command = [sys.executable, "-P", "-m", "simpletuner_twinflow.host.doctor"]
    command += ["--json"] * arguments.json + [arguments.config] * (arguments.config is not None)
    environment = os.environ | {"SIMPLETUNER_SKIP_TORCH": "1"}  # the host's own switch for a light import
    # What is examined is what the plugin does once it attaches; that it is switched off is said.
    environment["SIMPLETUNER_TWINFLOW_DOCTOR_DISABLED"] = environment.pop("SIMPLETUNER_TWINFLOW_DISABLED", "")
    code = _ended(command, environment)
    if code not in ENDS:  # the process was ended, by what it imported or from outside: that is looked for in another
        code = _ended([*command, f"--ended={code}"], environment)
    if code:
        raise SystemExit(code)


def _ended(command: list[str], environment: Mapping[str, str]) -> int:
    """The exit code of a command."""
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
