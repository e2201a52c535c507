"""What a run logged, by name, over its steps and over its time of training.

A run may have been killed and resumed: its log then has some steps twice, and a pause.
"""

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """One value over the steps of a run, in order, each step once."""

    steps: NDArray[np.int64]
    """shape (N,)"""
    seconds: NDArray[np.float64]
    """Of training since its start, without the pauses before it was resumed; shape (N,); NaN where unknown."""
    values: NDArray[np.float64]
    """Shape (N,); may hold NaN and infinities."""

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def of(cls, points: Mapping[int, tuple[float, float]]) -> "Series":
        """From step -> (seconds, value)."""
        steps = sorted(points)
        pairs = np.array([points[step] for step in steps], np.float64).reshape(-1, 2)
        return cls(np.array(steps, np.int64), pairs[:, 0], pairs[:, 1])


class Log:
    """Gathers what one run logged, in the order in which it was logged, in compact arrays."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[array, array, array]] = {}  # segment, step, value
        self._clock: list[dict[int, float]] = []  # by segment: step -> clock at its first record
        self._first: list[int] = []
        self._start: list[float] = []
        self._last: int | None = None

    def begin(self) -> None:
        """A new process goes on with the run, or begins it."""
        self._last = None

    def add(self, step: int, clock: float, values: Mapping[str, float], took: float | None = None) -> None:
        """One record.

        Args:
            step: optimizer steps done, from 1 (0 for what is logged before the first).
            clock: seconds, of whatever origin; NaN where unknown.
            values: by name; a record without any, of what is not compared, says nothing of the time either.
            took: seconds that this step took, of a record of a training step; None for any other. Such a record with
                a step below the last one's is the first after a resume.
        """
        if not values:
            return
        if self._last is None or (took is not None and step < self._last):
            self._clock.append({})
            self._first.append(step)
            self._start.append(clock - (took or 0.0))
        segment = len(self._clock) - 1
        if took is not None or self._last is None:
            self._last = step
        self._clock[segment].setdefault(step, clock)
        for name, value in values.items():
            segments, steps, numbers = self._named.setdefault(name, (array("l"), array("q"), array("d")))
            segments.append(segment)
            steps.append(step)
            numbers.append(value)

    def repeated(self) -> Iterator[tuple[int, int]]:
        """First and last step of each stretch that was trained, lost and trained again or given up."""
        for segment, first in enumerate(self._first[1:], 1):
            before = max((step for clock in self._clock[:segment] for step in clock), default=first - 1)
            if before >= first:
                yield first, before

    @property
    def processes(self) -> int:
        """How often the run was started or resumed."""
        return len(self._first)

    def series(self) -> dict[str, Series]:
        """All values by name. Of a step that was logged twice the later value holds."""
        seconds = self._seconds()
        return {name: self._one(*columns, seconds) for name, columns in self._named.items()}

    def _ends(self) -> NDArray[np.int64]:
        """By segment, the first step that a later segment trained again: there it ends."""
        ends = [np.iinfo(np.int64).max, *np.minimum.accumulate(self._first[:0:-1])] if self._first else []
        return np.array(ends[::-1], np.int64)

    def _seconds(self) -> list[dict[int, float]]:
        """By segment, step -> seconds of training, the pauses and the lost steps left out."""
        found: list[dict[int, float]] = []
        ends = self._ends()
        for segment, clocks in enumerate(self._clock):
            earlier = (own[step] for own in found for step in own if step < self._first[segment])
            offset = max((seconds for seconds in earlier if math.isfinite(seconds)), default=0.0) - self._start[segment]
            found.append({step: clock + offset for step, clock in clocks.items() if step < ends[segment]})
        return found

    @staticmethod
    def _one(segments: array, steps: array, values: array, seconds: list[dict[int, float]]) -> Series:
        points: dict[int, tuple[float, float]] = {}
        for segment, step, value in zip(segments, steps, values, strict=True):
            if step in seconds[segment]:
                points[step] = (seconds[segment][step], value)
        return Series.of(points)


def thinned(series: Series, points: int) -> tuple[Series, Series, Series]:
    """At most so many points for a picture: the mean, the least and the largest of each stretch of steps.

    Args:
        series: finite or not; stretches without a finite value are left out.
        points: at least 1.
    """
    finite = np.isfinite(series.values)
    steps, seconds, values = series.steps[finite], series.seconds[finite], series.values[finite]
    if len(steps) <= points:
        same = Series(steps, seconds, values)
        return same, same, same
    edges = np.linspace(0, len(steps), points + 1).astype(int)
    parts = [slice(a, b) for a, b in pairwise(edges.tolist())]
    middle = [(a.start + a.stop - 1) // 2 for a in parts]

    def each(of: np.ufunc | None) -> Series:
        found = [values[part].mean() if of is None else of.reduce(values[part]) for part in parts]
        return Series(steps[middle], seconds[middle], np.array(found))

    return each(None), each(np.minimum), each(np.maximum)
