"""A way to fine-tune the tiny SD3 with the host, the sampler that its export has, and how near its pictures come."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from rich.console import Console

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import JUMPS
from testbed.judge import Judge
from testbed.pictures import contact_sheet, even_scheduler, sample
from testbed.side_by_side import base_pipeline, run_folder, train_side_by_side, trained_pipeline
from testbed.trainer import demo_config, is_finished, without_twinflow

FRESH_NOISE = partial(TwinFlowScheduler, **JUMPS)
CLASSES = 10
LABEL_WIDTH = 22  # letters of a contact sheet's row
Scores = dict[str, float]


@dataclass(frozen=True)
class Way:
    """A row of a table."""

    name: str
    config: dict[str, Any] | None = None
    """The host's; None leaves the base as it is."""

    @property
    def sampler(self) -> Callable[[], Any]:
        """Makes the scheduler: Euler steps for plain models, for ours and the host's what TwinFlow exports for them."""
        if self.config is None or "twinflow_enabled" not in self.config:
            return even_scheduler
        several = self.config["twinflow_target_step_count"] > 1 and "twinflow_implementation" not in self.config
        return TwinFlowScheduler if several else FRESH_NOISE


@dataclass(frozen=True)
class Bench:
    """What all the ways of a table share."""

    folder: Path
    """The runs live here, with `digits`."""
    base: Path
    """The pipeline that they begin from."""
    judge: Judge
    calls: Sequence[int]
    """Network calls per picture."""
    samples: int
    target: torch.Tensor | None = None
    """Pictures to come near to beside the real digits, (N, 3, 64, 64)."""

    def scores(self, ways: Sequence[Way], at_once: int, console: Console) -> dict[str, Scores]:
        """Train in every way and judge, a few ways at once; what is done already is not repeated.

        Writes `comparison.png` too.
        """
        for some in itertools.batched(ways, at_once):
            missing = {}
            for way in some:
                run = run_folder(self.folder, way.name)
                if way.config is not None and not is_finished(run):
                    shutil.rmtree(run, ignore_errors=True)  # the host would go on from what it finds there
                    missing[way.name] = way.config
            if missing:
                train_side_by_side(self.folder, missing, console)
            for way in some:
                console.print(f"{way.name}: {self.judged(way)}", soft_wrap=True)
        pictures = [torch.load(run_folder(self.folder, way.name) / "pictures.pt", weights_only=True) for way in ways]
        contact_sheet(self.folder / "comparison.png", list(itertools.chain(*pictures)))
        return {way.name: self.judged(way) for way in ways}

    def judged(self, way: Way) -> Scores:
        """Frechet distances and class agreement by the number of calls, from the run's file of them if it is there."""
        run = run_folder(self.folder, way.name)
        file = run / f"scores-{self.samples}.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        run.mkdir(parents=True, exist_ok=True)
        trained = way.config is not None
        pipeline = trained_pipeline(self.folder, way.name, self.base) if trained else base_pipeline(self.base)
        labels, scores, rows = digits_asked(self.samples), {}, []
        for calls in self.calls:
            how = {"scheduler_factory": way.sampler, "own_grid": way.sampler is not even_scheduler}
            images = sample(pipeline, labels, range(self.samples), calls, **how)
            scores[f"real {calls}"] = self.judge.frechet(images)
            scores[f"agreement {calls}"] = self.judge.agreement(images, labels)
            if self.target is not None:
                scores[f"target {calls}"] = self.judge.between(self.target, images)
            rows.append((fill(f"{way.name}, {calls}", LABEL_WIDTH), images[:CLASSES].clone()))
        torch.save(rows, run / "pictures.pt")
        file.write_text(json.dumps(scores, indent=1), encoding="utf-8")
        return scores


def digits_asked(samples: int) -> torch.Tensor:
    """Every digit as often, (samples,)."""
    return torch.arange(CLASSES).repeat(samples // CLASSES)


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
