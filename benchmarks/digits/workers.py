"""Runs in parallel processes, one thread each, their training steps counted as they go.

Not in `__main__`, whose functions a spawned process cannot import.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.digits.report import Record
from benchmarks.digits.train import run

REFRESH_SECONDS = 0.5

_steps_made: Any = None  # in a worker: the count of training steps that all workers share


class Job(NamedTuple):
    """One run to make."""

    variant: str
    seed: int
    steps: int


def execute(
    jobs: list[Job],
    processes: int,
    folder: Path,
    on_steps: Callable[[int], None],
) -> Iterator[tuple[Job, Record | Exception]]:
    """Make the runs, and give the result or the error of each as it ends, in whatever order.

    Args:
        jobs: the runs.
        processes: how many at a time.
        folder: where base model and classifier are.
        on_steps: told twice a second how many training steps all runs together have made.

    Raises:
        BrokenProcessPool: if a process was killed; the runs that were not given yet are lost.
    """
    context = multiprocessing.get_context("spawn")
    steps_made = context.Value("q", 0)
    with _one_thread_each(), ProcessPoolExecutor(processes, context, _start_worker, (steps_made,)) as pool:
        pending: dict[Future[Record], Job] = {pool.submit(_run, job, folder): job for job in jobs}
        try:
            while pending:
                finished, _ = wait(pending, REFRESH_SECONDS, FIRST_COMPLETED)
                on_steps(steps_made.value)
                for future in finished:
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    yield pending.pop(future), error or future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(job: Job, folder: Path) -> Record:
    return run(*job, folder, on_step=_count_step)


def _start_worker(steps_made: Any) -> None:
    global _steps_made
    _steps_made = steps_made
    torch.set_num_threads(1)


def _count_step(step: int) -> None:
    with _steps_made.get_lock():
        _steps_made.value += 1


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started in this block use one thread in every numerical library."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
