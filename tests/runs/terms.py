"""TwinFlow's terms among what a run has logged."""

import math

from simpletuner_twinflow.host.training.wandb_chart import CHART_KEY
from tests.runs.run import Run

DEFAULT_TERMS = {"twinflow/rcgm", "twinflow/real_velocity"}
ALL_TERMS = DEFAULT_TERMS | {"twinflow/adversarial", "twinflow/rectify"}


def terms(values: dict) -> dict[str, float]:
    return {key: value for key, value in values.items() if key.startswith("twinflow/") and key != CHART_KEY}


def assert_every_step_logs(run: Run, names: set[str], steps: int) -> None:
    """These terms, and what is watched beside them."""
    names = names | {"twinflow/clamped"} | ({"twinflow/sign_separation"} if "twinflow/rectify" in names else set())
    logs = run.check().step_logs()
    assert len(logs) == steps
    for values in logs:
        assert set(terms(values)) == names
        assert all(isinstance(value, float) and math.isfinite(value) for value in terms(values).values())
