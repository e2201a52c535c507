"""What runs at every interpreter start: register a finder that wakes when the host is first imported.

Called from `simpletuner_twinflow.pth` (and, on Python 3.15+, from `simpletuner_twinflow.start`, PEP 829) in every
process of the environment, also those that never train. It therefore imports nothing that is not loaded already.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

HOST = "simpletuner"
DISABLE_VARIABLE = "SIMPLETUNER_TWINFLOW_DISABLED"


class HostFinder:
    """A `sys.meta_path` entry that finds nothing: the host's first import only triggers the hooks' registration."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """Register the hooks when `fullname` is the host, then leave the import to the ordinary finders.

        Raises:
            SystemExit: This process is a training command whose configuration is refused.
        """
        if fullname == HOST:
            sys.meta_path.remove(self)
            from simpletuner_twinflow._hooks import register_hooks
            from simpletuner_twinflow._preflight import refuse_early

            register_hooks()
            refuse_early()
        return None


def register() -> None:
    """Install the finder once, unless `SIMPLETUNER_TWINFLOW_DISABLED` is set to anything but `0` or nothing."""
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        return
    if HOST in sys.modules or any(isinstance(finder, HostFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, HostFinder())
