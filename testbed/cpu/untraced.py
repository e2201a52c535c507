"""SimpleTuner traces memory (`tracemalloc.start`) and then forks, with `enable_multiprocessing`, beside other threads.

A fork made while one of them notes a block waits for ever, and training for the fork. It is rare.
A TwinFlow run stops the tracing (host/training/metadata_scan.py); the demo's plain run and the tests' have this.
"""

from once_imported import once_imported

FACTORY = "simpletuner.helpers.data_backend.factory"


def keep_untraced() -> None:
    """Make the exchange in this process, once the host's factory of data backends is imported."""
    once_imported(FACTORY, _exchange)


def _exchange() -> None:
    import tracemalloc

    tracemalloc.start = lambda nframe=1: None
