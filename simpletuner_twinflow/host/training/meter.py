"""The terms of one optimizer step, kept on the device until the host logs."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simpletuner_twinflow.method.objective import RoleBatch, Term
from simpletuner_twinflow.method.roles import Role

LOSSES = ("rcgm", "real_velocity", "adversarial", "rectify", "regularisation")
NAMES = (*LOSSES, "clamped", "sign_separation")


class Positions(NamedTuple):
    """Where a micro-batch's rows were on the path."""

    roles: tuple[Role, ...]
    t: Tensor  # (B,), as are the following
    r: Tensor
    sign: Tensor


class WindowMeter:
    """Collects the terms of the micro-batches of one optimizer step."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}  # the means that were read last
        self._terms: dict[int, Mapping[str, Term]] = {}  # by micro-batch, as are the positions
        self._positions: dict[int, Positions] = {}

    def add(self, micro_batch: int, terms: Mapping[str, Term], rows: RoleBatch) -> None:
        """Keep a micro-batch's terms; a repeated pass over it replaces them, so probes do not count twice."""
        if micro_batch == 0:
            self._terms, self._positions = {}, {}
        self._terms[micro_batch] = terms
        self._positions[micro_batch] = Positions(rows.roles, rows.t, rows.r, rows.sign)

    def positions(self) -> list[Positions]:
        """Where the rows of each micro-batch of the step were."""
        return list(self._positions.values())

    def not_finite(self) -> dict[str, float]:
        """This rank's terms that are NaN or infinite; reads from the device."""
        return {
            name: value
            for terms in self._terms.values()
            for name, term in terms.items()
            if not math.isfinite(value := float(term.total))
        }

    def means(self, accelerator: Any) -> dict[str, float]:
        """Each term's mean over the step's rows on all ranks, which must all call it; terms without rows are left out.

        Reads from the device, so it is called where the host logs.
        """
        totals = torch.zeros(2, len(NAMES), device=accelerator.device)
        for terms in self._terms.values():
            for name, term in terms.items():
                totals[0, NAMES.index(name)] += term.total
                totals[1, NAMES.index(name)] += term.rows
        sums, counts = accelerator.reduce(totals, reduction="sum").tolist()
        self.last = {name: total / rows for name, total, rows in zip(NAMES, sums, counts, strict=True) if rows}
        return self.last
