"""For machines without an accelerator only: the host's collate function calls `Tensor.pin_memory`, which raises there.

It has nothing to pin, so the tensor is kept.
"""

import sys
from importlib.machinery import ModuleSpec

COLLATE = "simpletuner.helpers.training.collate"


class CollateFinder:
    """Waits for the host's collate module, so that no other process pays for importing torch."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find nothing; make the exchange when the module is about to be imported."""
        if fullname == COLLATE:
            sys.meta_path.remove(self)
            import torch

            if not torch.accelerator.is_available():
                torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
        return None


def keep_unpinned() -> None:
    """Make the exchange in this process."""
    sys.meta_path.insert(0, CollateFinder())
