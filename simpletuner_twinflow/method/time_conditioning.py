"""Target time and time sign for a network that was pre-trained on one positive time only."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.batch import ONE_STEP

FEATURES = 256


class TargetTimeEmbedding(nn.Module):
    """(r - r*(t)) E(t - r), added to a network's own embedding of the time t; r* is where the sampler steps from t.

    E starts at zero, so training starts from the pre-trained network. The factor makes the term vanish where the
    sampler calls the network, so sampling needs none of these weights (docs/method.md, "Time conditioning").
    """

    def __init__(self, dim: int, step_times: tuple[float, ...] = ONE_STEP) -> None:
        """Args:
        dim: width of the time embedding it is added to.
        step_times: the times at which the sampler calls the network, falling; see `sampler_target_time`.
        """
        super().__init__()
        self.step_times = step_times
        self.linear_1 = nn.Linear(FEATURES, dim)
        self.linear_2 = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        """The term for times t and target times r, both (B,) in [0, 1], r <= t: (B, dim)."""
        features = sinusoidal_features(t - r).to(self.linear_1.weight.dtype)
        embedding: Tensor = self.linear_2(nn.functional.silu(self.linear_1(features)))
        factor = r - sampler_target_time(t, self.step_times)
        return factor.unsqueeze(1).to(embedding.dtype) * embedding


def sampler_target_time(t: Tensor, step_times: tuple[float, ...]) -> Tensor:
    """r*(t): the time to which the sampler steps from t, and in between its own times a straight line; (B,) to (B,).

    From each of `step_times`, to the bit, it is the following one, from the last 0, as from all times below. With one
    step: 0.
    """
    starts, ends = (0.0, *reversed(step_times)), (0.0, 0.0, *reversed(step_times[1:]))
    target = torch.zeros_like(t)
    for (low, high), (begin, end) in zip(pairwise(starts), pairwise(ends), strict=True):
        left = ((high - t) / (high - low)).clamp(min=0)
        target = torch.where(t > low, end - (end - begin) * left, target)
    return target


class NegativeTimeEmbedding(nn.Module):
    """A vector added to the time embedding on negative time only; zero at the start, never used when sampling."""

    def __init__(self, dim: int) -> None:
        """Args: dim: width of the time embedding it is added to."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, sign: Tensor) -> Tensor:
        """The term for signs of +1 or -1, (B,): (B, dim)."""
        return (sign < 0).unsqueeze(1).to(self.weight.dtype) * self.weight


def sinusoidal_features(t: Tensor) -> Tensor:
    """Cosines and sines of 1000 t at geometric frequencies, in float32: (B,) -> (B, FEATURES)."""
    half = FEATURES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = 1000 * t.float().unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Times(NamedTuple):
    """The times and signs of a pass, each (B,)."""

    t: Tensor
    r: Tensor
    sign: Tensor


class TimeConditioning:
    """Adds the modules' terms to the output of a network's time embedding inside `times(...)`, and only there."""

    def __init__(
        self,
        time_embedding: nn.Module,
        owner: nn.Module,
        *,
        target_time: str,
        negative_time: str | None = None,
        rows_first: bool = False,
    ) -> None:
        """Attach to `time_embedding`, whose output is (n, dim), (B, n, dim) or (B, n, m, dim).

        Args:
            time_embedding: the module whose output the terms are added to.
            owner: the module that holds them; they are looked up at each pass, since a host may replace them.
            target_time: name there of the `TargetTimeEmbedding`.
            negative_time: name there of the `NegativeTimeEmbedding`; None where the sign is not added here.
            rows_first: whether the first B rows of an output are the pass's, and any further ones fixed times of the
                network's own. By default n = B k rows are k tokens of each of the B samples in turn.
        """
        self._owner, self._target_time, self._negative_time = owner, target_time, negative_time
        self._rows_first = rows_first
        self._times: Times | None = None
        self._with_grad: Times | None = None
        self.handle = time_embedding.register_forward_hook(self._condition)

    @contextmanager
    def times(self, t: Tensor, r: Tensor, sign: Tensor) -> Iterator[None]:
        """Run the network's passes in this block with time t, target time r and sign, all (B,); t and r in [0, 1]."""
        previous, self._times = self._times, Times(t, r, sign)
        if torch.is_grad_enabled():
            self._with_grad = self._times
        try:
            yield
        finally:
            self._times = previous

    def _condition(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        times = self._times
        # Gradient checkpointing may recompute the last pass with gradient in the backward pass, outside of the block.
        if times is None and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            times = self._with_grad
        if times is None:
            return None
        term = getattr(self._owner, self._target_time)(times.t, times.r)
        if self._negative_time is not None:
            term = term + getattr(self._owner, self._negative_time)(times.sign)
        return output + self._like(term, output).to(output.dtype)

    def _like(self, term: Tensor, output: Tensor) -> Tensor:
        """The term, (B, dim), in a shape that can be added to the output."""
        rows, found = term.shape[0], output.shape[0]
        if output.ndim > 2 and found == rows:
            return term.reshape(rows, *[1] * (output.ndim - 2), term.shape[1])
        if output.ndim == 2 and found == rows:
            return term
        if self._rows_first and output.ndim == 2 and found > rows:
            return torch.cat([term, term.new_zeros(found - rows, term.shape[1])])
        if output.ndim == 2 and not self._rows_first and found % rows == 0:
            return term.repeat_interleave(found // rows, dim=0)
        raise TwinFlowError(f"The time embedding's output {tuple(output.shape)} cannot be split into {rows} rows.")
