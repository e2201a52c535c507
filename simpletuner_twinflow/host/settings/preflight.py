"""Reads the configuration of a training command as the host does, checks it, and exits: nothing is trained or loaded.

Started by `simpletuner_twinflow._preflight` with that command's arguments. The host's own command and loader say which
files count, so no rule of theirs is copied here; only the modules that import torch are stood in for.
"""

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from simpletuner_twinflow._preflight import REFUSED
from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.seams import Seam, Touch
from simpletuner_twinflow.host.settings.given import checked_arguments

SEAMS = (  # touched in this process alone, which trains nothing
    Seam("main", touch=Touch.read, module="simpletuner.cli"),
    Seam("subprocess", touch=Touch.replaced, module="simpletuner.cli.train"),
    Seam("load_config", ("args",), Touch.read, "simpletuner.helpers.configuration.loader"),
    Seam("parse_cmdline_args", touch=Touch.replaced, module="simpletuner.helpers.configuration.cmd_args"),
)


class LauncherStarted(BaseException):
    """The host's command has come to the start of its launcher; it catches any Exception there itself."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Args: command, environment: what the launcher would be started with."""
        super().__init__()
        self.command, self.environment = command, environment


def main(argv: list[str]) -> int:
    """Check the configuration that a command would train with.

    Args:
        argv: the command's: `simpletuner train ...` or `.../train.py ...`.

    Returns:
        The exit code: `REFUSED` after the problems have been written to stdout, else 0.
    """
    chatter = io.StringIO()
    try:
        with contextlib.redirect_stdout(chatter):
            read_configuration(argv)
    except TwinFlowError as error:
        print(f"simpletuner-twinflow: {error}")
        return REFUSED
    return 0


def read_configuration(argv: list[str]) -> None:
    """Read a command's configuration through the host, which comes by the plugin's checks.

    Raises:
        TwinFlowError: What the checks found.
    """
    # Left out: the one module of the host's command that imports torch, and the parser with its fields.
    sys.modules["simpletuner.helpers.log_format"] = ModuleType("log_format")
    sys.modules["simpletuner.simpletuner_sdk.server.services.field_registry"] = None  # type: ignore[assignment]
    parser = ModuleType("cmd_args")
    vars(parser)["parse_cmdline_args"] = check_arguments
    sys.modules["simpletuner.helpers.configuration.cmd_args"] = parser
    if PurePath(argv[0]).name == "train.py":
        sys.argv = argv
    else:
        launched = as_launched(argv)
        if launched is None:
            return  # the host's command ends by itself and says why
        script = next(place for place, word in enumerate(launched.command) if word.endswith("train.py"))
        sys.argv = list(launched.command[script:])
        os.environ.clear()
        os.environ.update(launched.environment)
    from simpletuner.helpers.configuration import loader

    loader.load_config.__wrapped__(None)  # without the plugin's own end of the process


def as_launched(argv: list[str]) -> LauncherStarted | None:
    """What the host's command would start its launcher with; None where it does not come so far."""
    import simpletuner.cli
    from simpletuner.cli import train

    def start(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> NoReturn:
        raise LauncherStarted(command, dict(env))

    train.subprocess = SimpleNamespace(Popen=start, TimeoutExpired=TimeoutError)
    sys.argv = argv
    try:
        simpletuner.cli.main()
    except LauncherStarted as launched:
        return launched
    return None


def check_arguments(input_args: Sequence[str] | None = None, exit_on_error: bool = False) -> None:
    """In place of the host's parser: check the arguments that it would parse."""
    checked_arguments(sys.argv[1:] if input_args is None else input_args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
