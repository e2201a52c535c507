"""Epsilon and v models in flow coordinates (the geometry of Diff2Flow, arXiv:2506.02221).

A diffusion model knows `x_diff = a x + s z` with `a = sqrt(abar)`, `s = sqrt(1 - abar)`. The point of the flow's path
on the same ray is `x_t = x_diff / (a + s)`, at time `t = s / (a + s)`; read backwards, `a = (1 - t) / n(t)`,
`s = t / n(t)` and `x_diff = x_t / n(t)` with `n(t) = sqrt((1 - t)^2 + t^2)`. So the schedule is needed for one thing
only: which of the model's own times belongs to t.

The model's times run over [0, T - 1] and its schedule over [sigma_min, sigma_max] inside of the flow's [0, 1] (SD and
SDXL: 0.028 to 0.936). Beyond an end the model is called at its last or first time, with `x_t / n(t)`, which has the
variance it was trained on there, and its output is read for the far end only: above sigma_max for the data, below
sigma_min for the noise. `F = (x_t - x_hat) / t` and `F = (z_hat - x_t) / (1 - t)` continue the formula between the ends
without a jump. The cost, for data N(m, S^2) and an exact model: at t = 1 its data is off by
`a S^2 / (a^2 S^2 + s^2)` (SDXL: 0.068 S^2) of the noise, as in every sampler that starts such a model in pure noise; a
one-step sample is off by `a |m| S` and terms of order a^2 only.

Epsilon says less of the data as sigma nears 1 (its error is multiplied by `1 / (1 - sigma)`), and nothing at a time
without signal (zero terminal SNR). So the range of an epsilon model ends at the last time up to sigma 0.995, which cuts
no common schedule (PixArt's, the longest, ends at 0.9937); a v model has no such limit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.flow import at_least_float32, per_sample

PREDICTION_TYPES = ("epsilon", "v_prediction")
EPSILON_SIGMA_MAX = 0.995  # beyond it the model's output would be multiplied by more than 200


class DiffusionPoint(NamedTuple):
    """What a diffusion model is called with for the flow's velocity."""

    x: Tensor  # (B, ...), its noisy sample
    time: Tensor  # (B,), float32, its own time in [0, T - 1], also between whole steps


class _Spline(NamedTuple):
    """sigma over time: values at the whole times and slopes there."""

    sigma: Tensor  # (T,), increasing
    slope: Tensor  # (T,), above 0


class DiffusionPath:
    """The path of one diffusion model, and its predictions as the flow's velocity.

    Between whole times sigma follows a monotone rational quadratic spline (Gregory and Delbourgo, 1982): smooth,
    through every entry of the schedule, with an inverse in closed form. Times are computed in float64 (float32 where a
    device has none), whatever the dtype of the model. From sigma to time and back it is exact to 1e-12 in float64; a
    time that is rounded to float32 costs 2e-7 in sigma. A continuous schedule is met to 1e-8 (4e-5 in its first steps).
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        """Args:
            alphas_cumprod: abar at each whole time, (T,), falling.
            prediction_type: what the model returns, "epsilon" or "v_prediction".

        Raises:
            TwinFlowConfigError: if the schedule does not fall from step to step (one in bf16 does not), or the model
                returns something else.
        """
        if prediction_type not in PREDICTION_TYPES:
            raise TwinFlowConfigError(
                f"prediction_type is {prediction_type!r}; a diffusion model can be trained as a flow if it predicts "
                f"one of {', '.join(PREDICTION_TYPES)}."
            )
        abar = alphas_cumprod.to("cpu", torch.float64)
        falling = abar.ndim == 1 and len(abar) > 2 and bool((abar.diff() < 0).all())
        if not falling or abar[0] >= 1 or abar[-1] < 0:
            raise TwinFlowConfigError(
                f"alphas_cumprod ({tuple(abar.shape)}, {alphas_cumprod.dtype}) must fall from step to step inside of "
                "[0, 1): give the noise schedule's own table, in float32 at least."
            )
        self.prediction_type = prediction_type
        a, s = abar.sqrt(), (1 - abar).sqrt()
        sigma = s / (a + s)
        self._splines = {torch.device("cpu"): _Spline(sigma, _slopes(sigma))}
        usable = sigma[sigma <= EPSILON_SIGMA_MAX] if prediction_type == "epsilon" else sigma
        self.sigma_min, self.sigma_max = float(usable[0]), float(usable[-1])
        self.last_time = len(sigma) - 1

    def sigma(self, time: Tensor) -> Tensor:
        """The flow's time at the model's times, whole or not, in [0, T - 1]: (B,) to (B,) float32 at least."""
        spline = self._on(time.device)
        exact = time.to(spline.sigma.dtype).clamp(0, self.last_time)
        step = exact.floor().long().clamp(max=self.last_time - 1)
        low, rise, left, right = _piece(spline, step)
        u = exact - step
        bend = u * (1 - u)
        sigma = low + rise * (rise * u * u + left * bend) / (rise + (left + right - 2 * rise) * bend)
        return sigma.to(_at_least_float32(time.dtype))

    def time(self, sigma: Tensor) -> Tensor:
        """The model's time at the flow's times, its first or last beyond the ends: (B,) to (B,) float32 at least."""
        spline = self._on(sigma.device)
        exact = sigma.to(spline.sigma.dtype).clamp(self.sigma_min, self.sigma_max)
        step = (torch.searchsorted(spline.sigma, exact.contiguous(), right=True) - 1).clamp(0, self.last_time - 1)
        low, rise, left, right = _piece(spline, step)
        risen = (exact - low).clamp(min=0)
        excess = risen * (left + right - 2 * rise)
        # The root in [0, 1] of the quadratic equation, in the form that does not cancel.
        square, linear, constant = rise * (rise - left) + excess, rise * left - excess, -rise * risen
        root = (linear * linear - 4 * square * constant).clamp(min=0).sqrt()
        u = (-2 * constant / (linear + root)).clamp(0, 1)
        return (step + u).to(_at_least_float32(sigma.dtype))

    def point(self, x_t: Tensor, t: Tensor) -> DiffusionPoint:
        """What to call the model with for the velocity at x_t.

        Args:
            x_t: points on the flow's path, (B, ...).
            t: their times in [0, 1], (B,).
        """
        return DiffusionPoint(x=noisy_sample(x_t, t), time=self.time(t))

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The flow's velocity (data to noise) of a prediction, (B, ...), in float32 at least.

        Args:
            prediction: the model's output at `point(x_t, t)`, (B, ...).
            x: the noisy sample that it was given, *as rounded for it*: at high noise epsilon and sample nearly cancel,
                so a rounding of one of them alone is multiplied by `s / a`.
            t: the flow's times in [0, 1], (B,).
        """
        prediction, x = at_least_float32(prediction), at_least_float32(x)
        of_sample, of_prediction = self._weights(t.to(self._on(t.device).sigma.dtype))
        weights = (per_sample(weight, like=x).to(x.dtype) for weight in (of_sample, of_prediction))
        return next(weights) * x + next(weights) * prediction

    def _weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(A, B) of `F = A x_diff + B prediction` at the times t, each (B,); see the module for the three spans."""
        inner = t.clamp(self.sigma_min, self.sigma_max)
        a, s = (1 - inner) / _norm(inner), inner / _norm(inner)
        low, high = t.clamp(max=self.sigma_max), t.clamp(min=self.sigma_max)
        if self.prediction_type == "epsilon":
            below = -_norm(low) / (1 - low), 1 / (1 - low)
            above = (_norm(high) - 1 / a) / high, s / (a * high)
            return _where(t > self.sigma_max, above, below)
        low = t.clamp(max=self.sigma_min)
        below = (s - _norm(low)) / (1 - low), a / (1 - low)
        above = (_norm(high) - a) / high, s / high
        between = s - a, s + a
        return _where(t > self.sigma_max, above, _where(t < self.sigma_min, below, between))

    def _on(self, device: torch.device) -> _Spline:
        if device not in self._splines:
            dtype = torch.float32 if device.type in ("mps", "npu") else torch.float64
            spline = self._splines[torch.device("cpu")]
            self._splines[device] = _Spline(*(table.to(device=device, dtype=dtype) for table in spline))
        return self._splines[device]


def noisy_sample(x_t: Tensor, t: Tensor) -> Tensor:
    """The diffusion model's noisy samples of points on the flow's path at times t: `x_t / n(t)`, (B, ...)."""
    x_t = at_least_float32(x_t)
    return x_t / per_sample(_norm(at_least_float32(t)), like=x_t).to(x_t.dtype)


def flow_state(x: Tensor, t: Tensor) -> Tensor:
    """The points on the flow's path at times t of a diffusion model's noisy samples: `x n(t)`, (B, ...)."""
    x = at_least_float32(x)
    return x * per_sample(_norm(at_least_float32(t)), like=x).to(x.dtype)


def _norm(t: Tensor) -> Tensor:
    return ((1 - t).square() + t.square()).sqrt()


def _where(condition: Tensor, yes: tuple[Tensor, Tensor], no: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.where(condition, yes[0], no[0]), torch.where(condition, yes[1], no[1])


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _piece(spline: _Spline, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start, rise, slope at the left and slope at the right of the spline's pieces."""
    low = spline.sigma[step]
    return low, spline.sigma[step + 1] - low, spline.slope[step], spline.slope[step + 1]


def _slopes(sigma: Tensor) -> Tensor:
    """Central differences; at the ends carried on by their ratio, which keeps them above 0."""
    rise = sigma.diff()
    inner = (rise[1:] + rise[:-1]) / 2
    return torch.cat([rise[:1] ** 2 / inner[:1], inner, rise[-1:] ** 2 / inner[-1:]])
