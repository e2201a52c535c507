"""What a run's records say of it."""

import math

import pytest

from simpletuner_twinflow.comparison.run import Measured, Run, measured
from simpletuner_twinflow.comparison.series import Series


def series(*points: tuple[int, float]) -> Series:
    return Series.of({step: (10.0 * step, value) for step, value in points})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ema_2/mmd_in_errors", Measured("ema", 2, "mmd_in_errors")),
        ("base_20/diversity", Measured("base", 20, "diversity")),
        ("ema_x/mmd", None),
        ("ema_2", None),
        ("2/mmd", None),
    ],
)
def test_logged_names_are_read(name, key):
    assert measured(name) == key


@pytest.mark.parametrize(
    ("config", "mode", "count"),
    [
        ({"twinflow_enabled": True, "twinflow_target_step_count": 4}, "TwinFlow", 4),
        ({"twinflow_enabled": True, "twinflow_implementation": "host"}, "TwinFlow (SimpleTuner's own)", None),
        ({"twinflow_enabled": False, "twinflow_target_step_count": 1}, "plain", None),
        ({"twinflow_enabled": "yes", "twinflow_target_step_count": "4"}, "TwinFlow", 4),
        ({"twinflow_enabled": "false"}, "plain", None),
        ({"twinflow_enabled": True, "twinflow_target_step_count": "many"}, "TwinFlow", None),
        ({"train_batch_size": 1}, "plain", None),
        ({}, "unknown", None),
    ],
)
def test_mode_and_target(config, mode, count):
    run = Run("x", [], config=config)
    assert (run.mode, run.target_step_count) == (mode, count)


def test_a_config_file_without_the_key_has_its_default():
    assert Run("x", [], config={"twinflow_enabled": True}, config_kind="config file").target_step_count == 1


def test_a_run_that_measured_is_a_twinflow_run_whatever_is_recorded():
    assert Run("x", [], quality={Measured("ema", 1, "mmd"): series((1, 1.0))}).mode == "TwinFlow"


def test_best_is_the_emas_least_finite_value_and_to_the_guided_base_where_that_is_known():
    quality = {
        Measured("ema", 1, "mmd_in_errors"): series((1, 5.0), (2, math.nan), (3, 2.0), (4, 3.0)),
        Measured("student", 1, "mmd_in_errors"): series((1, 0.1)),
        Measured("ema", 2, "mmd_in_errors"): series((1, 5.0), (2, 6.0)),
        Measured("ema", 2, "mmd_to_guided_base_in_errors"): series((1, 8.0), (2, -1.0)),
        Measured("base", 20, "mmd_in_errors"): series((1, 0.0)),
        Measured("base", 1, "mmd_in_errors"): series((1, 9.0), (2, math.nan)),
        Measured("base", 2, "mmd_to_guided_base_in_errors"): series((1, 0.9)),
        Measured("ema", 4, "mmd_in_errors"): series((1, math.nan)),
    }
    run = Run("x", [], quality=quality)
    assert run.best() == {
        1: ("mmd_in_errors", 2.0, 3, 30.0, 9.0, None, None),
        2: ("mmd_to_guided_base_in_errors", -1.0, 2, 20.0, 0.9, 6.0, None),
    }
    assert (run.drawn_in, run.last_step, run.seconds) == ([1, 2, 4], 4, 40.0)
    without = {key: one for key, one in quality.items() if key.who != "ema"}
    assert Run("x", [], quality=without).best()[1].value == 0.1
