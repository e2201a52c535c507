"""Progress of long work: bars on a terminal, plain lines where the output is a file or a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 20.0


@dataclass
class _Task:
    description: str
    total: int
    began: float
    said: float  # when it last printed a line
    done: bool = False


class Progress:
    """Several tasks side by side. `update` may be called from any thread, and as often as one likes."""

    def __init__(self, console: Console, unit: str) -> None:
        """Args: console: to print on. unit: what is counted, e.g. "steps"."""
        self._console, self._unit = console, unit
        self._tasks: list[_Task] = []
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = RichProgress(*columns, TextColumn(unit), TimeElapsedColumn(), console=console)

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show the tasks while the block lasts."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def add(self, description: str, total: int) -> int:
        """A further task; returns its number."""
        now = time.monotonic()
        self._tasks.append(_Task(description, total, began=now, said=now))
        if not self._console.is_terminal:
            self._console.print(f"{description}: started", soft_wrap=True)
        return self._bars.add_task(description, total=total)

    def update(self, number: int, completed: int, total: int | None = None) -> None:
        """Say how far a task is; call it also where nothing has moved, so that a file shows that it is alive."""
        task, now = self._tasks[number], time.monotonic()
        task.total = total or task.total
        self._bars.update(number, completed=completed, total=task.total)
        ended = completed >= task.total
        if self._console.is_terminal or task.done or not (ended or now - task.said >= SECONDS_BETWEEN_LINES):
            return
        task.said, task.done = now, ended
        far = f"{completed}/{task.total} {self._unit}" if completed else "preparing"
        line = f"{task.description}: {far}, {now - task.began:.0f} s"
        self._console.print(line, soft_wrap=True, highlight=False)
