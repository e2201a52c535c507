"""An exchange that is made when a module of the host is about to be imported, so that no other process pays for it."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec


class OnceImported:
    """Waits for a module, and finds none."""

    def __init__(self, module: str, exchange: Callable[[], None]) -> None:
        """Args: module: its whole name. exchange: what is done before its import, once."""
        self._module, self._exchange = module, exchange

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find nothing; make the exchange when the module is about to be imported."""
        if fullname == self._module:
            sys.meta_path.remove(self)
            self._exchange()
        return None


def once_imported(module: str, exchange: Callable[[], None]) -> None:
    """Make the exchange in this process before it imports the module."""
    sys.meta_path.insert(0, OnceImported(module, exchange))
