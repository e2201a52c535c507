"""The sigmas at which the few-step sampler calls the network, and the target time of each call.

The grid of UCGM (arXiv:2505.07447) with the gaps that the public TwinFlow code samples with.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError

Style = Literal["few", "any", "multi"]

# The last sigma above zero of the published few-step recipes: (up to this many steps, sigma).
_AUTOMATIC_SIGMA_MIN = ((2, 0.6), (4, 0.5), (math.inf, 0.3))

# Binary digits of a number in each dtype. A sigma in float32 is close enough to be left alone.
_DIGITS = {"float32": None, "bfloat16": 8, "float16": 11}
TIME_DTYPES = tuple(_DIGITS)


class SolverStep(NamedTuple):
    """One step of the solver: one call of the network."""

    t: float  # sigma of the sample that the network is given
    r: float  # target time of the call
    t_next: float  # sigma of the sample afterwards


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How the sampler spaces its sigmas and what it does between them. None stands for automatic.

    Attributes:
        style: the target time of each call: "few" 0, "any" the next sigma, "multi" the sigma itself.
        stochastic_ratio: share of the noise's variance that each step draws anew, in [0, 1]. Automatic: 1 for "few", 0
            for the others.
        sigma_max: sigma of the first call, made in pure noise; in (0, 1].
        sigma_min: last sigma above zero; 0 spaces the sigmas evenly down to zero. Automatic: 0 for "multi"; for the
            others 0.6 up to 2 steps, 0.5 up to 4 and 0.3 above.
        shift: moves every sigma s to `shift s / (1 + (shift - 1) s)`; above 0.
        time_dtype: dtype in which the network is given its time. Sigmas that it cannot hold are moved to the nearest
            that it can, so that training and every pipeline call the network at the same times.
        time_unit: the network's time at pure noise, 1 or 1000. With 1 the dtype also holds 1 - sigma.
    """

    style: Style = "few"
    stochastic_ratio: float | None = None
    sigma_max: float = 0.999
    sigma_min: float | None = None
    shift: float = 1.0
    time_dtype: str = "float32"
    time_unit: int = 1000

    def __post_init__(self) -> None:
        ratio, low = self.stochastic_ratio, self.sigma_min
        rules = {
            "style": (self.style in get_args(Style), "'few', 'any' or 'multi'"),
            "stochastic_ratio": (ratio is None or 0 <= ratio <= 1, "in [0, 1], or None for automatic"),
            "sigma_max": (0 < self.sigma_max <= 1, "in (0, 1]"),
            "sigma_min": (low is None or 0 <= low < self.sigma_max, "in [0, sigma_max), or None for automatic"),
            "shift": (0 < self.shift < math.inf, "above 0"),
            "time_dtype": (self.time_dtype in TIME_DTYPES, f"one of {', '.join(TIME_DTYPES)}"),
            "time_unit": (self.time_unit in (1, 1000), "1 or 1000"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise TwinFlowConfigError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}.")

    @property
    def fresh_share(self) -> float:
        """The stochastic ratio, with automatic resolved."""
        if self.stochastic_ratio is not None:
            return self.stochastic_ratio
        return 1.0 if self.style == "few" else 0.0

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """The sigmas from the first call's down to 0: steps + 1 of them, in Python's float64.

        Raises:
            TwinFlowError: steps is below 1.
            TwinFlowConfigError: the sigmas would not fall from step to step.
        """
        if steps < 1:
            raise TwinFlowError(f"Sampling takes at least one step; got {steps}.")
        low = self._sigma_min(steps)
        # An explicit zero is a point of the grid, left out here because the 0 that ends every schedule is appended.
        last = steps if low == 0 else max(steps - 1, 1)
        start, span = 1 - self.sigma_max, self.sigma_max - low
        sigmas = [self._held(self._shifted(1 - (start + span * (step / last)))) for step in range(steps)]
        sigmas.append(0.0)
        if any(now <= following for now, following in pairwise(sigmas)):
            raise TwinFlowConfigError(
                f"sigma_max {self.sigma_max} and sigma_min {low} (of {self.sigma_min!r}) give the sigmas {sigmas}, "
                "which must fall: lower sigma_min or raise sigma_max."
            )
        return tuple(sigmas)

    def steps(self, count: int) -> tuple[SolverStep, ...]:
        """The steps of a run with `count` network calls. Raises: as `sigmas`."""
        return tuple(SolverStep(now, self._target(now, after), after) for now, after in pairwise(self.sigmas(count)))

    def step_times(self, steps: int) -> tuple[float, ...]:
        """The times at which a run calls the network, for training to aim at. Raises: as `sigmas`."""
        return self.sigmas(steps)[:-1]

    def _sigma_min(self, steps: int) -> float:
        if self.sigma_min is not None:
            return self.sigma_min
        if self.style == "multi":
            return 0.0
        return next(sigma for most, sigma in _AUTOMATIC_SIGMA_MIN if steps <= most)

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
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)
