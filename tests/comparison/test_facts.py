"""The table of the runs."""

import math

from simpletuner_twinflow.comparison.facts import PLAIN, UNKNOWN, costs, duration, facts
from simpletuner_twinflow.comparison.run import Measured, Run
from simpletuner_twinflow.comparison.series import Series


def series(*values: float) -> Series:
    return Series.of({step: (float(step), value) for step, value in enumerate(values, start=1)})


def test_every_place_says_something():
    twinflow = {"twinflow_enabled": True, "twinflow_target_step_count": 2, "twinflow_enhanced_ratio": 0.5}
    twinflow |= {"twinflow/passes_per_row": 4.5, "twinflow/network_cost_ratio": 1.5, "train_batch_size": 4}
    plain = {"twinflow_enabled": False, "model_type": "lora", "train_batch_size": 4, "gradient_accumulation_steps": 2}
    took = {"iteration_step_time_seconds": series(9.0, 0.5, 0.5, math.nan)}
    runs = [
        Run("t", [], took, {Measured("ema", 2, "mmd_in_errors"): series(3.0, 1.0)}, config=twinflow),
        Run("p", [], took, config=plain),
        Run("nothing", []),
    ]
    table = {title: values for title, values in facts(runs) + costs(runs)}
    assert table["Mode"] == ["TwinFlow", "plain", "unknown"]
    assert table["Trained for"] == ["2 steps", "many steps", UNKNOWN]
    assert table["Guidance trained in"] == ["scale 2", "none", UNKNOWN]
    assert table["Rows a step"] == ["4", "4 × 2", UNKNOWN]
    assert table["Best in 2 steps"] == ["1.0; at step 2 (ema)", PLAIN, "not measured, or not recorded"]
    assert table["Seconds a step (median)"] == ["0.5", "0.5", UNKNOWN]
    assert table["Network passes a row"] == ["4.5", "2", UNKNOWN]
    assert table["Network's work, plain training 1"] == ["1.5", "1", UNKNOWN]
    assert all(value for values in table.values() for value in values)


def test_plain_runs_alone_say_that_quality_was_not_measured():
    [row] = [fact for fact in facts([Run("p", [], config={"a": 1})]) if fact.title == "Few-step quality"]
    assert row.values == [PLAIN]


def test_durations():
    assert [duration(seconds) for seconds in (48, 750, 11_520)] == ["48 s", "12.5 min", "3.2 h"]
