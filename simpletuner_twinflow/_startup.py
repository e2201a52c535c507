"""Runs at every interpreter start, and so imports nothing that is not loaded already.

Called from `simpletuner_twinflow.pth` (and, on Python 3.15+, from `simpletuner_twinflow.start`, PEP 829).
"""

import os
import sys

HOST = "simpletuner"
DISABLE_VARIABLE = "SIMPLETUNER_TWINFLOW_DISABLED"


class HostFinder:
    """A `sys.meta_path` entry that finds nothing; the first import of the host makes it register the hooks."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Register the hooks when `fullname` is the host. Raises: SystemExit: see `refuse_early`."""
        if fullname == HOST:
            sys.meta_path.remove(self)
            from simpletuner_twinflow._hooks import register_hooks
            from simpletuner_twinflow._preflight import refuse_early

            register_hooks()
            refuse_early()


def register() -> None:
    """Install the finder once, unless `SIMPLETUNER_TWINFLOW_DISABLED` is set to anything but `0` or nothing."""
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        return
    if HOST in sys.modules or any(isinstance(finder, HostFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, HostFinder())
