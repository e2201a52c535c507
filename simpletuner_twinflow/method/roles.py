"""Which terms of the objective each row of a training step trains.

Each row has one role. Roles are sampled for a *window*, the rows of all micro-batches of one optimizer step on all
ranks, so batches of one row train all terms too if gradients are accumulated or there are several processes.
"""

import math
import random
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError

# Shares are read as fractions of the largest with denominators up to this, so that thirds and tenths are exact.
_FINEST_SHARE = 10**6


class Role(StrEnum):
    """The part of the objective that a row trains."""

    one_step = "one_step"  # (t_i, 0), all the way to the data: RCGM, and rectify in the adversarial branch
    near = "near"  # r = t: the real velocity
    any_step = "any_step"  # r uniform below t: RCGM
    twin = "twin"  # a generated sample at negative time: the adversarial term
    sampler_step = "sampler_step"  # (t_i, t_i+1), one of the steps that a sampler of several makes: RCGM


REAL_ROLES = (Role.one_step, Role.near, Role.any_step, Role.sampler_step)  # train on the data


class RoleSampler:
    """Samples roles in given shares, window by window.

    A window's roles depend on (seed, ranks, window, window_rows, shares) alone: a resumed run samples what the
    uninterrupted run did, and no other random stream moves. Counts come from systematic sampling over the rows of all
    ranks: each role gets its share to within one row, exactly where that is a whole number, and without bias over
    windows. A role's rows are spread evenly over the ranks; the order within a rank is a random permutation.
    """

    def __init__(self, shares: Mapping[Role, float], seed: int, rank: int = 0, ranks: int = 1) -> None:
        """Args:
            shares: weight of each role, at least 0, one of them above; only the proportions count.
            seed: the run's seed.
            rank: of the process, from 0.
            ranks: number of processes that a window's rows are spread over.

        Raises:
            TwinFlowConfigError: if a share is negative or not finite, none is above zero, or a role does not exist.
            TwinFlowError: if there is no such rank.
        """
        if not 0 <= rank < ranks:
            raise TwinFlowError(f"There is no rank {rank} of {ranks}.")
        if unknown := set(shares) - set(Role):
            raise TwinFlowConfigError(f"There are no roles {sorted(unknown)}; the roles are {[*map(str, Role)]}.")
        if not all(math.isfinite(share) and share >= 0 for share in shares.values()):
            raise TwinFlowConfigError(f"Role shares must be finite and at least 0; got {dict(shares)}.")
        # In the order of Role, so that the roles do not depend on the mapping's order.
        largest = Fraction(max(shares.values(), default=0))
        if largest == 0:
            raise TwinFlowConfigError(f"At least one role needs a share above 0; got {dict(shares)}.")
        weights = {role: (Fraction(shares.get(role, 0)) / largest).limit_denominator(_FINEST_SHARE) for role in Role}
        whole = sum(weights.values())
        self._shares = {role: weight / whole for role, weight in weights.items()}
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self._window: int | None = None
        self._offset = 0
        self._drawn: dict[tuple[int, int], tuple[Role, ...]] = {}

    def sample(self, batch_size: int, window: int, window_rows: int) -> tuple[Role, ...]:
        """The roles of the next micro-batch.

        Calls with the same window go on where the last one ended; a new window starts at its first row.

        Args:
            batch_size: rows of this micro-batch, at least 1.
            window: index of the optimizer step.
            window_rows: nominal rows of the window on one rank, train_batch_size times accumulation steps. A longer
                window goes on with another sample of as many rows.

        Raises:
            TwinFlowError: if `batch_size` or `window_rows` is below 1.
        """
        if batch_size < 1 or window_rows < 1:
            raise TwinFlowError(f"Roles are sampled for at least one row; got {batch_size} of {window_rows}.")
        if window != self._window:
            self._window, self._offset, self._drawn = window, 0, {}
        start, self._offset = self._offset, self._offset + batch_size
        return tuple(
            self._roles_of(row // window_rows, window_rows)[row % window_rows] for row in range(start, self._offset)
        )

    def _roles_of(self, lap: int, rows: int) -> tuple[Role, ...]:
        if (lap, rows) not in self._drawn:
            # A string seed is hashed with SHA-512: the same on every machine, and unlike hash() in every process.
            name = f"{self._seed}/{self._window}/{rows}/{lap}"
            stream = random.Random(f"{name}/{self._ranks}")  # the same on every rank
            everyone = [role for role, count in self._counts(rows * self._ranks, stream).items() for _ in range(count)]
            first = int(stream.random() * self._ranks)
            own = everyone[(self._rank + first) % self._ranks :: self._ranks]
            random.Random(f"{name}/{self._rank} of {self._ranks}").shuffle(own)
            self._drawn[lap, rows] = tuple(own)
        return self._drawn[lap, rows]

    def _counts(self, rows: int, stream: random.Random) -> dict[Role, int]:
        """Systematic sampling: role i gets `floor(c_i + u) - floor(c_{i-1} + u)` rows, c the cumulative share."""
        edge = Fraction(stream.getrandbits(53), 2**53)
        edges = [edge] + [edge := edge + share * rows for share in self._shares.values()]
        floors = [math.floor(edge) for edge in edges]
        return {role: after - before for role, (before, after) in zip(self._shares, pairwise(floors), strict=True)}
