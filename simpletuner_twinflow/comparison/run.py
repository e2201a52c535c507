"""One run, as far as it can be read."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simpletuner_twinflow.comparison.series import Series

FIGURES = {
    "mmd_in_errors": "MMD to the data, in standard errors",
    "mmd_to_guided_base_in_errors": "MMD to the guided base, in standard errors",
    "frechet": "Frechet distance to the data, 32 directions",
    "diversity": "Diversity within a prompt (data: 1)",
}
TO_DATA, TO_GUIDED_BASE = "mmd_in_errors", "mmd_to_guided_base_in_errors"
QUALITY = "twinflow/quality/"


class Measured(NamedTuple):
    """What a quality curve is of."""

    who: str
    """"ema", "student" or "base"."""
    steps: int
    """With which the samples were drawn."""
    figure: str
    """A key of FIGURES, or another figure of the run's."""


class Picture(NamedTuple):
    """A picture that a run left."""

    label: str
    step: int
    path: Path


class Best(NamedTuple):
    """The best measure of a number of drawing steps."""

    figure: str
    value: float
    step: int
    seconds: float
    base: float | None
    """The base model's, by the same figure in as many steps; None where that was not measured."""
    to_data: float | None = None
    """With guidance trained in: the distance to the data at the same step."""
    base_to_data: float | None = None


@dataclass
class Run:
    """What is known of a run."""

    name: str
    """Short, and no other run's."""
    given: list[Path]
    """The paths that it was read from."""
    series: dict[str, Series] = field(default_factory=dict)
    """What was logged at training steps, by name."""
    quality: dict[Measured, Series] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_kind: str = ""
    """What wrote the configuration: those of different kinds do not hold the same keys."""
    pictures: list[Picture] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    """What -> where it was read from."""
    notes: list[str] = field(default_factory=list)
    """What is amiss or to be known, a sentence each."""

    @property
    def mode(self) -> str:
        """ "TwinFlow", "TwinFlow (SimpleTuner's own)", "plain" or "unknown"."""
        if _is_on(self.config.get("twinflow_enabled")):
            own = self.config.get("twinflow_implementation") == "host"
            return "TwinFlow (SimpleTuner's own)" if own else "TwinFlow"
        if self.quality or any(name.startswith("twinflow/") for name in self.series):
            return "TwinFlow"
        return "plain" if self.config else "unknown"

    @property
    def target_step_count(self) -> int | None:
        """The number of steps that is trained for; None of a plain run, or where it is not recorded."""
        if not self.mode.startswith("TwinFlow"):
            return None
        given = self.config.get("twinflow_target_step_count")
        if given is None:
            return 1 if self.config_kind.startswith("config file") else None
        return int(given) if str(given).isdecimal() else None

    @property
    def drawn_in(self) -> list[int]:
        """The numbers of steps in which samples of this run were measured."""
        return sorted({key.steps for key in self.quality if key.who != "base"})

    @property
    def who(self) -> str:
        """Whose samples stand for the run: the EMA's where it has one."""
        return "ema" if any(key.who == "ema" for key in self.quality) else "student"

    def best(self) -> dict[int, Best]:
        """By number of drawing steps. With guidance trained in, measured by the distance to the guided base."""
        found = {}
        for steps in self.drawn_in:
            for figure in (TO_GUIDED_BASE, TO_DATA):
                points = [*finite(self.quality.get(Measured(self.who, steps, figure)))]
                if points:
                    value, step, seconds = min(points)
                    best = Best(figure, value, step, seconds, self._of_base(steps, figure))
                    if figure == TO_GUIDED_BASE:
                        data = {at: far for far, at, _ in finite(self.quality.get(Measured(self.who, steps, TO_DATA)))}
                        best = best._replace(to_data=data.get(step), base_to_data=self._of_base(steps, TO_DATA))
                    found[steps] = best
                    break
        return found

    def _of_base(self, steps: int, figure: str) -> float | None:
        """The base model does not change: its last measure."""
        points = [*finite(self.quality.get(Measured("base", steps, figure)))]
        return points[-1][0] if points else None

    @property
    def last_step(self) -> int | None:
        """The last step that was logged."""
        return max((int(one.steps[-1]) for one in self._all() if len(one)), default=None)

    @property
    def seconds(self) -> float | None:
        """Of training, to the last record."""
        known = [float(one.seconds[-1]) for one in self._all() if len(one) and math.isfinite(one.seconds[-1])]
        return max(known, default=None)

    def _all(self) -> list[Series]:
        return [*self.series.values(), *self.quality.values()]


def _is_on(value: Any) -> bool:
    """Whether a flag is set, which the user's own config may spell as the host reads text."""
    if not isinstance(value, str):
        return value is True
    from simpletuner_twinflow.options import TRUE_WORDS  # here, since it waits for torch

    return value.strip().lower() in TRUE_WORDS


def finite(series: Series | None) -> Iterator[tuple[float, int, float]]:
    """The (value, step, seconds) of a series whose value is a finite number."""
    if series is not None:
        for value, step, seconds in zip(series.values, series.steps, series.seconds, strict=True):
            if math.isfinite(value):
                yield float(value), int(step), float(seconds)


def measured(name: str) -> Measured | None:
    """What a logged name such as `ema_2/mmd_in_errors` is of. Args: name: without QUALITY before it."""
    head, _, figure = name.partition("/")
    who, _, steps = head.rpartition("_")
    return Measured(who, int(steps), figure) if who and steps.isdecimal() and figure else None
