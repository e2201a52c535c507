"""The host's scan of an image set: it loses no image, and the process ends after training.

The scan's workers are threads by default, and they report through `multiprocessing.Queue`. Its own thread writes the
entries to a pipe, so it can look empty while some are on their way. The host then stops reading: a part of a large
set's metadata is lost, and at exit the process waits forever for that thread, since the pipe is full.

With `enable_multiprocessing` they are processes, forked while other threads run and the host traces memory
(`tracemalloc.start` in its data backends' factory, never stopped). Where another thread is noting a block at that
moment, the fork waits forever for the lock of the notes, in its first allocation, and training for the fork.
"""

import queue
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.run import active_options, log_mending
from simpletuner_twinflow.host.seams import STATE, Seam, Touch, uses, wrap


@uses(
    Seam("Queue"),
    Seam("Process"),
    Seam("MetadataBackend.compute_aspect_ratio_bucket_indices", touch=Touch.read),
    Seam("StateTracker.get_args", touch=Touch.read, module=STATE),
    lost="SimpleTuner's scan of a large image set may lose images and hang at exit",
)
def attach_to_scan(module: ModuleType) -> None:
    """Have the scan's threads of a TwinFlow run report through a queue for threads, and fork without traced memory."""
    logged: list[bool] = []

    def make_process(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        if active_options(_config()) is not None and tracemalloc.is_tracing():
            log_mending("memory is traced no more, since a process forked beside that can wait for ever")
            tracemalloc.stop()
        return wrapped(*args, **kwargs)

    def make_queue(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        config = _config()
        if active_options(config) is None or config.enable_multiprocessing:
            return wrapped(*args, **kwargs)
        if not logged:
            logged.append(True)
            log_mending("the scan of image sets reports through queues for threads, so that it loses nothing and ends")
        return queue.Queue()

    wrap(module, "Queue", make_queue)
    wrap(module, "Process", make_process)


def _config() -> Any:
    from simpletuner.helpers.training.state_tracker import StateTracker

    return StateTracker.get_args()
