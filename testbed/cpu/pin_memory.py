"""For machines without an accelerator only: the host's collate function calls `Tensor.pin_memory`, which raises there.

It has nothing to pin, so the tensor is kept.
"""

from once_imported import once_imported

COLLATE = "simpletuner.helpers.training.collate"


def keep_unpinned() -> None:
    """Make the exchange in this process, once the host's collate module is imported."""
    once_imported(COLLATE, _exchange)


def _exchange() -> None:
    import torch

    if not torch.accelerator.is_available():
        torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
