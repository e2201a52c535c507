"""SimpleTuner traces memory (`tracemalloc.start`) and then forks, with `enable_multiprocessing`, beside other threads.

A fork made while one of them notes a block waits for ever, and training for the fork. It is rare.
A TwinFlow run stops the tracing (host/training/metadata_scan.py); the demo's plain run and the tests' have this.
"""

import sys
from importlib.machinery import ModuleSpec

FACTORY = "simpletuner.helpers.data_backend.factory"


class FactoryFinder:
    """Waits for the host's factory of data backends, so that no other process is changed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find nothing; make the exchange when the module is about to be imported."""
        if fullname == FACTORY:
            sys.meta_path.remove(self)
            import tracemalloc

            tracemalloc.start = lambda nframe=1: None
        return None


def keep_untraced() -> None:
    """Make the exchange in this process."""
    sys.meta_path.insert(0, FactoryFinder())
