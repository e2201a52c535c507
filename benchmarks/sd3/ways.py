"""A way to fine-tune the tiny SD3 with the host, the sampler that its export has, and how near its pictures come."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.sd3.problems import Problem, Scores
from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import JUMPS
from testbed.pictures import contact_sheet, even_scheduler, sample
from testbed.side_by_side import base_pipeline, run_folder, train_side_by_side, trained_pipeline
from testbed.trainer import demo_config, is_finished, without_twinflow

FRESH_NOISE = partial(TwinFlowScheduler, **JUMPS)
SHOWN = 10  # pictures in a contact sheet's row
LABEL_WIDTH = 22  # letters of a contact sheet's row


@dataclass(frozen=True)
class Way:
    """A row of a table."""

    name: str
    config: dict[str, Any] | None = None
    """The host's; None leaves the base as it is."""
    steps: Literal["its own", "Euler", "noised anew"] = "its own"
    """What happens between two calls where it is not what TwinFlow exports."""
    trained: str | None = None
    """The row whose weights these are; None: its own."""

    @property
    def run(self) -> str:
        """The name of the run that trains it."""
        return self.trained or self.name

    @property
    def sampler(self) -> Callable[[], Any]:
        """Makes the scheduler: Euler steps for plain models, for ours and the host's what TwinFlow exports for them."""
        if self.steps != "its own":
            return TwinFlowScheduler if self.steps == "Euler" else FRESH_NOISE
        if self.config is None or "twinflow_enabled" not in self.config:
            return even_scheduler
        several = self.config["twinflow_target_step_count"] > 1 and "twinflow_implementation" not in self.config
        return TwinFlowScheduler if several else FRESH_NOISE


@dataclass(frozen=True)
class Bench:
    """What all the ways of a table share."""

    folder: Path
    """The runs live here, with the images."""
    problem: Problem
    base: Path
    """The pipeline that they begin from."""
    judge: Callable[[Tensor, Tensor], Scores]
    """Of pictures and the captions asked for."""
    calls: Sequence[int]
    """Network calls per picture."""
    samples: int

    def scores(self, ways: Sequence[Way], at_once: int, console: Console) -> dict[str, Scores]:
        """Train in every way and judge, a few ways at once; what is done already is not repeated.

        Writes `comparison.png` too.
        """
        for some in itertools.batched(ways, at_once):
            missing = {}
            for way in some:
                run = run_folder(self.folder, way.run)
                if way.config is not None and not is_finished(run):
                    shutil.rmtree(run, ignore_errors=True)  # the host would go on from what it finds there
                    missing[way.run] = way.config
            if missing:
                train_side_by_side(self.folder, missing, console, self.problem.images)
            for way in some:
                console.print(f"{way.name}: {self.judged(way)}", soft_wrap=True)
        pictures = [torch.load(self._file(way, "pictures", "pt"), weights_only=True) for way in ways]
        sheet = list(itertools.chain(*pictures))
        titles = [self.problem.captions[index] for index in self.problem.asked(self.samples)[:SHOWN]]
        contact_sheet(self.folder / "comparison.png", sheet, [title.removeprefix("a ") for title in titles])
        return {way.name: self.judged(way) for way in ways}

    def judged(self, way: Way) -> Scores:
        """What the judge says, by "kind calls", from the run's file of it if it is there."""
        file = self._file(way, f"scores-{self.samples}", "json")
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        file.parent.mkdir(parents=True, exist_ok=True)
        trained = way.config is not None
        pipeline = trained_pipeline(self.folder, way.run, self.base) if trained else base_pipeline(self.base)
        labels, scores, rows = self.problem.asked(self.samples), {}, []
        for calls in self.calls:
            how = {"scheduler_factory": way.sampler, "own_grid": way.sampler is not even_scheduler}
            images = sample(pipeline, labels, range(self.samples), calls, captions=self.problem.captions, **how)
            scores |= {f"{kind} {calls}": value for kind, value in self.judge(images, labels).items()}
            rows.append((fill(f"{way.name}, {calls}", LABEL_WIDTH), images[:SHOWN].clone()))
        torch.save(rows, self._file(way, "pictures", "pt"))
        file.write_text(json.dumps(scores, indent=1), encoding="utf-8")
        return scores

    def _file(self, way: Way, name: str, ending: str) -> Path:
        drawn = "" if way.steps == "its own" else f"-{way.steps.lower().replace(' ', '-')}"
        return run_folder(self.folder, way.run) / f"{name}{drawn}.{ending}"


def run_config(base: Path, seed: int, steps: int, **changes: Any) -> dict[str, Any]:
    """The demo's config on that base, without guidance and without the adversarial branch."""
    ours = {
        "pretrained_model_name_or_path": str(base),
        "max_train_steps": steps,
        "checkpointing_steps": steps,
        "validation_disable": True,
        "seed": seed,
        "report_to": "simpletuner",
        "twinflow_enhanced_ratio": 0.0,
        "twinflow_adversarial_enabled": False,
    }
    return demo_config(**ours | changes)


def plain_config(base: Path, seed: int, steps: int, **changes: Any) -> dict[str, Any]:
    """The same run without TwinFlow."""
    return without_twinflow(run_config(base, seed, steps, **changes))
