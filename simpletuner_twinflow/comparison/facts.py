"""What the runs are and what they cost, a row a fact."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from simpletuner_twinflow.comparison.differences import shown
from simpletuner_twinflow.comparison.local_tracker import TOOK
from simpletuner_twinflow.comparison.run import TO_GUIDED_BASE, Run

UNKNOWN = "not recorded"
PLAIN = "not measured: plain run"
MANY = 1e12  # passes that no run has


class Fact(NamedTuple):
    """A title, and a text for each run."""

    title: str
    values: list[str]


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Mode, target step count, guidance, batch, steps."""
    rows: dict[str, Callable[[Run], str]] = {
        "Mode": lambda run: run.mode,
        "Model": _model,
        "Trained for": _target,
        "Guidance trained in": _guidance,
        "Rows a step": _batch,
        "Steps": lambda run: UNKNOWN if run.last_step is None else f"{run.last_step:,}",
    }
    counts = sorted({steps for run in runs for steps in run.best()})
    rows |= {f"Best in {steps} step{'s' * (steps > 1)}": partial(_best, steps) for steps in counts}
    if not counts:
        rows["Few-step quality"] = quality_missing
    return [Fact(title, [of(run) for run in runs]) for title, of in rows.items()]


def costs(runs: Sequence[Run]) -> list[Fact]:
    """Time, and passes through the network."""
    rows: dict[str, Callable[[Run], str]] = {
        "Time of training": lambda run: UNKNOWN if run.seconds is None else duration(run.seconds),
        "Seconds a step (median)": lambda run: UNKNOWN if (took := seconds_per_step(run)) is None else f"{took:.3g}",
        "Network passes a row": _passes,
        "Network's work, plain training 1": lambda run: (
            "1" if run.mode == "plain" else _number(run, "twinflow/network_cost_ratio")
        ),
    }
    return [Fact(title, [of(run) for run in runs]) for title, of in rows.items()]


def quality_missing(run: Run) -> str:
    """Why a run has no few-step quality; "" if it has some."""
    if run.drawn_in:
        return ""
    if run.mode == "plain":
        return PLAIN
    if run.mode == "unknown":
        return "not measured, or not recorded"
    return "not measured: too short a run, ended before the first measure, or twinflow_quality_samples is 0"


def seconds_per_step(run: Run) -> float | None:
    """The median of what the host measured, for which steps with a validation or a measure are too few to count."""
    took = run.series.get(TOOK)
    values = took.values[np.isfinite(took.values) & (took.values > 0)] if took is not None else np.array([])
    return float(np.median(values)) if len(values) else None


def duration(seconds: float) -> str:
    """As a person reads it: 48 s, 12.5 min, 3.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _model(run: Run) -> str:
    config = run.config
    said = [config.get(key) for key in ("model_family", "model_flavour", "model_type")]
    return " ".join(shown("model", one) for one in said if one) or UNKNOWN


def _target(run: Run) -> str:
    if run.mode == "plain":
        return "many steps"
    count = run.target_step_count
    return UNKNOWN if count is None else f"{count} step{'s' * (count > 1)}"


def _guidance(run: Run) -> str:
    if run.mode == "plain":
        return "none"
    scale = run.config.get("twinflow/trained_guidance_scale", run.config.get("twinflow_guidance_scale"))
    if scale is None and isinstance(ratio := run.config.get("twinflow_enhanced_ratio"), int | float) and ratio < 1:
        scale = 1 / (1 - ratio)
    if not isinstance(scale, int | float):
        return UNKNOWN
    return "none" if scale == 1 else f"scale {scale:.3g}"


def _batch(run: Run) -> str:
    rows = run.config.get("train_batch_size")
    if not isinstance(rows, int):
        return UNKNOWN
    more = run.config.get("gradient_accumulation_steps") or 1
    return f"{rows} × {more}" if more != 1 else str(rows)


def _best(steps: int, run: Run) -> str:
    if missing := quality_missing(run):
        return missing
    best = run.best().get(steps)
    if best is None:
        return "not measured in so many steps"
    said = beside_base(best.value, best.base)
    if best.figure == TO_GUIDED_BASE:
        said += " to the guided base"
        said += "" if best.to_data is None else f"; {beside_base(best.to_data, best.base_to_data)} to the data"
    return f"{said}; at step {best.step:,} ({run.who})"


def beside_base(value: float, base: float | None) -> str:
    """A run's figure and the base model's by the same measure, where there is one."""
    return f"{value:.1f}" if base is None else f"{value:.1f} (base {base:.1f})"


def _passes(run: Run) -> str:
    if run.mode != "plain":
        return _number(run, "twinflow/passes_per_row")
    from simpletuner_twinflow.method.cost import BACKWARD  # here, since it waits for torch

    backward = BACKWARD.get(run.config.get("model_type", ""))
    return UNKNOWN if backward is None else f"{1 + backward:g}"


def _number(run: Run, key: str) -> str:
    value: Any = run.config.get(key)
    return f"{value:g}" if isinstance(value, int | float) and abs(value) < MANY else UNKNOWN
