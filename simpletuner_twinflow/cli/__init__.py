"""The command line, `simpletuner-twinflow COMMAND ...`. It needs torch and diffusers, not the trainer."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from simpletuner_twinflow.errors import TwinFlowError

PROGRAM = "simpletuner-twinflow"
# Each is a module of this package with HELP, add_arguments(parser) and run(arguments); torch is imported in run only.
COMMANDS = ("sample", "doctor", "compare")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults, except None, which stands for what the help says."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: by default those of the process.

    Returns:
        The exit code: 0; 1 with one line on stderr if something could not be done; 130 when interrupted; 141 when the
        reader of the output went away, as `head` does.

    Raises:
        SystemExit: 2, for arguments that are wrong in themselves.
    """
    parser = Parser(prog=PROGRAM, description="TwinFlow few-step models.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version(PROGRAM)}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        command = import_module(f"{__name__}.{name}")
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP, formatter_class=Help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush says it again
        return 141
    except TwinFlowError as error:
        print(f"{PROGRAM} {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
