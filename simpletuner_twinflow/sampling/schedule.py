"""The levels at which the few-step sampler calls the network, and the target time it gives at each.

The grid of UCGM (arXiv:2505.07447) with the gaps that the public TwinFlow code samples with.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError

# The last level above zero that the published few-step recipes use: (up to this many steps, level).
_AUTOMATIC_SIGMA_MIN = ((2, 0.6), (4, 0.5), (math.inf, 0.3))

# Binary digits of a number in each dtype; a level in float32 is close enough to what it should be to be left alone.
_DIGITS = {"float32": None, "bfloat16": 8, "float16": 11}


class Call(NamedTuple):
    """One call of the network."""

    t: float  # level it is made at
    r: float  # target time it is given
    end: float  # level the sample stands at afterwards
    corrects: bool  # whether it is the second of the two calls of a second-order interval


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How the sampler spaces its levels and what it does between them. None stands for automatic.

    Attributes:
        style: the target time of each call: "few" 0, "any" the next level, "multi" the level itself.
        stochastic_ratio: share of the noise's variance that each step draws anew, in [0, 1]. Automatic: 1 for "few",
            0 for the others and at second order.
        extrapolation: how far the estimates are carried on along their last change, from the third interval on.
        solver_order: 1, or 2 for a Heun-like correction: two calls an interval but one in the last.
        kumaraswamy: (a, b, c) of the spacing `1 - sigma = (1 - (1 - u^a)^b)^c`, u evenly spaced.
        sigma_max: level of the first call, made in pure noise; in (0, 1].
        sigma_min: last level above zero; 0 spaces the levels evenly down to zero. Automatic: 0 for "multi"; 0.6 up to
            2 steps, 0.5 up to 4 and 0.3 above for the others.
        shift: moves every level: `shift s / (1 + (shift - 1) s)`.
        time_dtype: in which the network is given its time. Levels that it cannot hold are moved to ones that it can, so
            that training, which aims at them, and every pipeline ask at the same times.
        time_unit: what the network calls the time of noise, 1 or 1000; where it is 1, 1 minus a level can be held too.
    """

    style: Literal["few", "any", "multi"] = "few"
    stochastic_ratio: float | None = None
    extrapolation: float = 0.0
    solver_order: int = 1
    kumaraswamy: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sigma_max: float = 0.999
    sigma_min: float | None = None
    shift: float = 1.0
    time_dtype: str = "float32"
    time_unit: int = 1000

    def __post_init__(self) -> None:
        ratio, low = self.stochastic_ratio, self.sigma_min
        rules = {
            "style": (self.style in ("few", "any", "multi"), "'few', 'any' or 'multi'"),
            "stochastic_ratio": (ratio is None or 0 <= ratio <= 1, "in [0, 1], or None for automatic"),
            "extrapolation": (0 <= self.extrapolation < math.inf, "at least 0"),
            "solver_order": (self.solver_order in (1, 2), "1 or 2"),
            "kumaraswamy": (len(self.kumaraswamy) == 3 and min(self.kumaraswamy) > 0, "three numbers above 0"),
            "sigma_max": (0 < self.sigma_max <= 1, "in (0, 1]"),
            "sigma_min": (low is None or 0 <= low < self.sigma_max, "in [0, sigma_max), or None for automatic"),
            "shift": (0 < self.shift < math.inf, "above 0"),
            "time_dtype": (self.time_dtype in _DIGITS, f"one of {', '.join(_DIGITS)}"),
            "time_unit": (self.time_unit in (1, 1000), "1 or 1000"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise TwinFlowConfigError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}.")
        if self.solver_order == 2 and ratio:
            raise TwinFlowConfigError(
                f"solver_order 2 follows an ODE, so fresh noise breaks it: stochastic_ratio is {ratio}; set it to 0."
            )

    @property
    def fresh_share(self) -> float:
        """The stochastic ratio, with automatic resolved."""
        if self.stochastic_ratio is not None:
            return self.stochastic_ratio
        return 1.0 if self.style == "few" and self.solver_order == 1 else 0.0

    def levels(self, intervals: int) -> tuple[float, ...]:
        """The levels from the first call's down to 0: intervals + 1 of them, in Python's float64.

        Raises:
            TwinFlowError: if there is no interval.
            TwinFlowConfigError: if they would not fall from level to level.
        """
        if intervals < 1:
            raise TwinFlowError(f"Sampling takes at least one step; got {intervals}.")
        low = self._sigma_min(intervals)
        # An explicit zero is a point of the grid, left out here because the 0 that ends every schedule is appended.
        last = intervals if low == 0 else max(intervals - 1, 1)
        start, span = 1 - self.sigma_max, self.sigma_max - low
        levels = [
            self._held(self._shifted(1 - self._spaced(start + span * (step / last)))) for step in range(intervals)
        ]
        levels.append(0.0)
        if any(now <= following for now, following in pairwise(levels)):
            raise TwinFlowConfigError(
                f"sigma_max {self.sigma_max} and sigma_min {low} (of {self.sigma_min!r}) give the levels {levels}, "
                "which must fall: lower sigma_min or raise sigma_max."
            )
        return tuple(levels)

    def calls(self, steps: int) -> tuple[Call, ...]:
        """The network calls of a run of `steps`; at second order an even count is rounded down to the odd one below."""
        intervals = (steps + 1) // 2 if self.solver_order == 2 else steps
        levels = self.levels(intervals)
        if self.solver_order == 2 and intervals > 1 and levels[0] >= 1:
            raise TwinFlowConfigError(
                f"solver_order 2 divides by 1 - sigma, so it cannot start at {levels[0]}: set sigma_max below 1."
            )
        calls = []
        for interval, (now, following) in enumerate(pairwise(levels)):
            calls.append(Call(now, self._target(levels, interval), following, corrects=False))
            if self.solver_order == 2 and following > 0:
                calls.append(Call(following, self._target(levels, interval + 1), following, corrects=True))
        return tuple(calls)

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The times at which a run of `steps` calls the network, for training to aim at; each level once."""
        return tuple(call.t for call in self.calls(steps) if not call.corrects)

    def _sigma_min(self, intervals: int) -> float:
        if self.sigma_min is not None:
            return self.sigma_min
        if self.style == "multi":
            return 0.0
        return next(level for most, level in _AUTOMATIC_SIGMA_MIN if intervals <= most)

    def _target(self, levels: tuple[float, ...], interval: int) -> float:
        return {"few": 0.0, "any": levels[interval + 1], "multi": levels[interval]}[self.style]

    def _spaced(self, u: float) -> float:
        a, b, c = self.kumaraswamy
        return (1 - (1 - u**a) ** b) ** c

    def _held(self, level: float) -> float:
        """The nearest level that the network can be told in its dtype."""
        digits = _DIGITS[self.time_dtype]
        if digits is None:
            return level
        if self.time_unit == 1:
            return round(level * 2**digits) / 2**digits
        mantissa, exponent = math.frexp(1000 * level)
        return math.ldexp(round(mantissa * 2**digits), exponent - digits) / 1000

    def _shifted(self, sigma: float) -> float:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)
