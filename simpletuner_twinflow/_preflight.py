"""Refuse a training command's configuration before the host spends a minute on its imports.

The host's command starts a launcher, and the launched trainer parses the configuration after all imports. So the first
of these processes starts a small one, `host.settings.preflight`, which checks the configuration as the trainer will.
"""

import os
import subprocess
import sys
from pathlib import PurePath

CHECKED = "SIMPLETUNER_TWINFLOW_CHECKED"  # set for the processes that a checked command starts
REFUSED = 78  # exit code of the small process; sysexits' "configuration error"


def refuse_early() -> None:
    """End this process if it is a training command with a configuration that is refused.

    Raises:
        SystemExit: With a line for each problem.
    """
    if not starts_training(sys.argv) or CHECKED in os.environ or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    os.environ[CHECKED] = "1"
    result = subprocess.run(
        [sys.executable, "-P", "-m", "simpletuner_twinflow.host.settings.preflight", *sys.argv],
        env=os.environ | {"SIMPLETUNER_SKIP_TORCH": "1"},  # the host's own switch for a light import
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if result.returncode == REFUSED:
        raise SystemExit(result.stdout.strip())


def starts_training(argv: list[str]) -> bool:
    """Whether a command line is the host's `simpletuner train ...` or its `train.py`."""
    program = PurePath(argv[0]) if argv and argv[0] else PurePath("-")
    if program.parts[-2:] == ("simpletuner", "train.py"):
        return True
    return program.stem == "simpletuner" and next((word for word in argv[1:] if word[:1] != "-"), "") == "train"
