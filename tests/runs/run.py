"""What a finished run of the host has left."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = "events-{rank}.jsonl"


@dataclass(frozen=True)
class Run:
    """A finished run of the host."""

    folder: Path
    code: int
    log: str
    events: list[dict[str, Any]]

    @property
    def output(self) -> Path:
        """The run's `output_dir`."""
        return self.folder / "output"

    @classmethod
    def read(cls, folder: Path, rank: int, code: int) -> "Run":
        """What a finished process of a run has left in the run's folder."""
        events, log = folder / EVENTS.format(rank=rank), folder / f"log-{rank}.txt"
        lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return cls(folder, code, said, [*map(json.loads, lines)])

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The observed events of one kind, in order."""
        return [event for event in self.events if event["kind"] == kind]

    def step_logs(self) -> list[dict[str, Any]]:
        """What the host logged per optimizer step, in order."""
        return [event["values"] for event in self.of("log") if "train_loss" in event["values"]]

    def check(self) -> "Run":
        """This run, which must have ended well."""
        assert self.code == 0, self.log[-8000:]
        return self
