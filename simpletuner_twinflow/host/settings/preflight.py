"""Reads a training command's configuration as the host does, checks it, and exits; nothing is loaded or trained.

Started by `simpletuner_twinflow._preflight` with that command's arguments. The host's own command and loader find and
read the files; only modules that import torch are replaced.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    """Raised with the command and environment of the launcher; the host's command itself catches any Exception."""


def main(argv: list[str]) -> int:
    """Check the configuration of `simpletuner train ...` or `.../train.py ...`.

    Returns:
        The exit code: `REFUSED` after the problems have been written to stdout, else 0.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read_configuration(argv)
    except TwinFlowError as error:
        print(f"simpletuner-twinflow: {error}")
        return REFUSED
    return 0


def read_configuration(argv: list[str], check: Callable[[Sequence[str]], object] = checked_arguments) -> None:
    """Have the host read a command's configuration, and the plugin check it.

    Args: argv: of the command; check: is given the arguments that the host's parser would parse.

    Raises:
        TwinFlowError: What the checks found.
    """
    leave_out_torch(partial(check_arguments, check))
    if PurePath(argv[0]).name == "train.py":
        sys.argv = argv
    else:
        launched = as_launched(argv)
        if launched is None:
            return  # the host's command ends with a message of its own
        command, environment = launched
        script = next(place for place, word in enumerate(command) if word.endswith("train.py"))
        sys.argv = list(command[script:])
        os.environ.clear()
        os.environ.update(environment)
    from simpletuner.helpers.configuration import loader

    loader.load_config.__wrapped__(None)  # without the plugin's own end of the process


def leave_out_torch(parse: Callable[..., object] | None) -> None:
    """Import the host's configuration without the modules of it that import torch. Args: parse: in its parser's place.

    They are the one of its command that does, and the parser with its fields.
    """
    sys.modules["simpletuner.helpers.log_format"] = ModuleType("log_format")
    sys.modules["simpletuner.simpletuner_sdk.server.services.field_registry"] = None  # type: ignore[assignment]
    parser = ModuleType("cmd_args")
    vars(parser)["parse_cmdline_args"] = parse
    sys.modules["simpletuner.helpers.configuration.cmd_args"] = parser


def as_launched(argv: list[str]) -> tuple[Sequence[str], Mapping[str, str]] | None:
    """Command and environment that the host's command would start its launcher with; None where it starts none."""
    import simpletuner.cli
    from simpletuner.cli import train

    def start(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> NoReturn:
        raise LauncherStarted(command, dict(env))

    train.subprocess = SimpleNamespace(Popen=start, TimeoutExpired=TimeoutError)
    sys.argv = argv
    try:
        simpletuner.cli.main()
    except LauncherStarted as launched:
        return launched.args
    return None


def check_arguments(
    check: Callable[[Sequence[str]], object], input_args: Sequence[str] | None = None, exit_on_error: bool = False
) -> None:
    """In place of the host's parser: check the arguments that it would parse."""
    check(sys.argv[1:] if input_args is None else input_args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
