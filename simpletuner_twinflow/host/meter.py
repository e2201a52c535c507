"""Per-term sums over an accumulation window, kept on the device until the host logs."""

from collections.abc import Mapping
from typing import Any

import torch

from simpletuner_twinflow.objective import Rows, Term

NAMES = ("rcgm", "real_velocity", "adversarial", "rectify")


class WindowMeter:
    """Collects the terms of the micro-batches of one optimizer step."""

    def __init__(self) -> None:
        self._terms: dict[int, Mapping[str, Term]] = {}
        self._rows: dict[int, Rows] = {}

    def add(self, micro_batch: int, terms: Mapping[str, Term], rows: Rows) -> None:
        """Keep a micro-batch's terms; a repeated pass over it replaces them, so probes do not count twice."""
        if micro_batch == 0:
            self._terms, self._rows = {}, {}
        self._terms[micro_batch], self._rows[micro_batch] = terms, rows

    def rows(self) -> list[Rows]:
        """The rows of the window so far."""
        return list(self._rows.values())

    def means(self, accelerator: Any) -> dict[str, float]:
        """Each term's mean over the window's rows on all ranks; a term without rows is left out.

        Reads from the device, so it is called where the host logs. All ranks must call it.
        """
        device = accelerator.device
        totals = torch.zeros(2, len(NAMES), device=device)
        for terms in self._terms.values():
            for name, term in terms.items():
                totals[0, NAMES.index(name)] += term.total
                totals[1, NAMES.index(name)] += term.rows
        sums, counts = accelerator.reduce(totals, reduction="sum").tolist()
        return {name: total / rows for name, total, rows in zip(NAMES, sums, counts, strict=True) if rows}
