"""The sigmas at which the few-step sampler calls the network, and the target time of each call.

Of a deterministic run Karras' spacing (arXiv:2206.00364, rho = 7) from 1 to one over the number of steps, which the
stock scheduler of diffusers can make exactly. With fresh noise between the steps the even grid of UCGM
(arXiv:2505.07447) with the gaps that the public TwinFlow code samples with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError

Style = Literal["few", "any", "multi"]

_RHO = 7.0  # of Karras' spacing, as in diffusers

# The sigmas of the published few-step recipes, which draw fresh noise: the first, and the last above zero up to so many
# steps.
_PUBLISHED_SIGMA_MAX = 0.999
_PUBLISHED_SIGMA_MIN = ((2, 0.6), (4, 0.5), (math.inf, 0.3))

# Binary digits of a number in each dtype. A sigma in float32 is close enough to be left alone.
_DIGITS = {"float32": None, "bfloat16": 8, "float16": 11}
TIME_DTYPES = tuple(_DIGITS)

# For a model that jumps to the data: each jump's end is noised anew. 1 is where the stock scheduler begins.
JUMPS = {"stochastic_ratio": 1.0, "sigma_max": 1.0}


class SolverStep(NamedTuple):
    """One step of the solver: one call of the network."""

    t: float  # sigma of the sample that the network is given
    r: float  # target time of the call
    t_next: float  # sigma of the sample afterwards


class TrainedTimes(NamedTuple):
    """The times that a run for some number of steps trains to call the network at."""

    jumps: tuple[float, ...]
    """From which it jumps to the data; some more than once, for they are taken in turn."""
    steps: tuple[tuple[float, float], ...]
    """The sampler's own steps from a time to the next, where each is trained as such."""


def trained_times(step_times: Callable[[int], tuple[float, ...]], count: int, *, own_steps: bool) -> TrainedTimes:
    """What a run for `count` steps trains.

    A model that learns its sampler's own steps is drawn in that many. One that jumps to the data is noised anew in
    between and can be drawn in any number: it learns the times of the samplers of 1, 2, 4 and `count` steps.

    Args: step_times: of a sampler, by the number of its steps; own_steps: whether these are trained.
    """
    if own_steps:
        times = step_times(count)
        return TrainedTimes(times[:1], tuple(pairwise((*times, 0.0))))
    return TrainedTimes(tuple(time for steps in sorted({1, 2, 4, count}) for time in step_times(steps)), ())


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How the sampler spaces its sigmas and what it does between them. None stands for automatic.

    Attributes:
        style: the target time of each call: "few" 0, "any" the next sigma, "multi" the sigma itself.
        stochastic_ratio: share of the noise's variance that each step draws anew, in [0, 1]; 0 is an ODE, the same
            picture by start noise in any program.
        sigma_max: sigma of the first call, made in pure noise; in (0, 1]. Automatic: 1, with fresh noise 0.999.
        sigma_min: last sigma above zero, the others lying evenly between; 0 spaces the sigmas evenly down to zero.
            Automatic: 0 for "multi"; for the others sigma_max over the number of steps, in Karras' spacing; with fresh
            noise 0.6 up to 2 steps, 0.5 up to 4 and 0.3 above.
        shift: moves every sigma s to `shift s / (1 + (shift - 1) s)`; above 0.
        time_dtype: dtype in which the network is given its time. Sigmas that it cannot hold are moved to the nearest
            that it can, so that training and every pipeline call the network at the same times.
        time_unit: the network's time at pure noise, 1 or 1000. With 1 the dtype also holds 1 - sigma.
    """

    style: Style = "few"
    stochastic_ratio: float = 0.0
    sigma_max: float | None = None
    sigma_min: float | None = None
    shift: float = 1.0
    time_dtype: str = "float32"
    time_unit: int = 1000

    def __post_init__(self) -> None:
        ratio, low, high = self.stochastic_ratio, self.sigma_min, self.sigma_max
        rules = {
            "style": (self.style in get_args(Style), "'few', 'any' or 'multi'"),
            "stochastic_ratio": (ratio is not None and 0 <= ratio <= 1, "in [0, 1]"),
            "sigma_max": (high is None or 0 < high <= 1, "in (0, 1], or None for automatic"),
            "sigma_min": (low is None or 0 <= low < self.first_sigma, "in [0, sigma_max), or None for automatic"),
            "shift": (0 < self.shift < math.inf, "above 0"),
            "time_dtype": (self.time_dtype in TIME_DTYPES, f"one of {', '.join(TIME_DTYPES)}"),
            "time_unit": (self.time_unit in (1, 1000), "1 or 1000"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise TwinFlowConfigError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}.")

    @property
    def first_sigma(self) -> float:
        """sigma_max, with automatic resolved."""
        if self.sigma_max is not None:
            return self.sigma_max
        return _PUBLISHED_SIGMA_MAX if self.stochastic_ratio > 0 else 1.0

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """The sigmas from the first call's down to 0: steps + 1 of them, in Python's float64.

        Raises:
            TwinFlowError: steps is below 1.
            TwinFlowConfigError: the sigmas would not fall from step to step.
        """
        if steps < 1:
            raise TwinFlowError(f"Sampling takes at least one step; got {steps}.")
        automatic = self.sigma_min is None and self.style != "multi"
        spaced = self._karras(steps) if automatic and self.stochastic_ratio == 0 else self._even(steps)
        sigmas = [*(self._held(self._shifted(sigma)) for sigma in spaced), 0.0]
        if any(now <= following for now, following in pairwise(sigmas)):
            way_out = "lower sigma_min or raise sigma_max" if sigmas[-2] > 0 else "sigma_min must be 0, or larger"
            raise TwinFlowConfigError(
                f"sigma_max {self.first_sigma} and sigma_min {self.sigma_min!r} give the sigmas {sigmas}, which "
                f"must fall: {way_out}."
            )
        return tuple(sigmas)

    def steps(self, count: int) -> tuple[SolverStep, ...]:
        """The steps of a run with `count` network calls. Raises: as `sigmas`."""
        return tuple(SolverStep(now, self._target(now, after), after) for now, after in pairwise(self.sigmas(count)))

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The times at which a run calls the network, for training to aim at. Raises: as `sigmas`."""
        return self.sigmas(steps)[:-1]

    def _karras(self, steps: int) -> list[float]:
        high, low = self.first_sigma ** (1 / _RHO), (self.first_sigma / steps) ** (1 / _RHO)
        return [(high + (low - high) * (step / max(steps - 1, 1))) ** _RHO for step in range(steps)]

    def _even(self, steps: int) -> list[float]:
        low = self.sigma_min or 0.0
        if self.sigma_min is None and self.style != "multi":
            low = next(sigma for most, sigma in _PUBLISHED_SIGMA_MIN if steps <= most)
        # An explicit zero is a point of the grid, left out here because the 0 that ends every schedule is appended.
        last = steps if low == 0 else max(steps - 1, 1)
        start, span = 1 - self.first_sigma, self.first_sigma - low
        return [1 - (start + span * (step / last)) for step in range(steps)]

    def _target(self, now: float, following: float) -> float:
        return {"few": 0.0, "any": following, "multi": now}[self.style]

    def _held(self, sigma: float) -> float:
        """The nearest sigma that the network's time can be in its dtype."""
        digits = _DIGITS[self.time_dtype]
        if digits is None:
            return sigma
        if self.time_unit == 1:
            return math.ldexp(round(math.ldexp(sigma, digits)), -digits)
        mantissa, exponent = math.frexp(1000 * sigma)
        return math.ldexp(round(mantissa * 2**digits), exponent - digits) / 1000

    def _shifted(self, sigma: float) -> float:
        # Pure noise stays at 1, which rounding would exceed with some shifts, and no time above 1 can be trained.
        return min(self.shift * sigma / (1 + (self.shift - 1) * sigma), 1.0)
