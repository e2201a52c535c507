"""Whether this plugin trains a run, asked of the host's configuration; and the log line of what is mended."""

import logging
from types import SimpleNamespace

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.host.run import active_options, log_mending, options_of
from testbed.host_models.build import host_config


@pytest.mark.parametrize(
    ("keys", "active"),
    [
        ({}, False),
        ({"twinflow_enabled": False}, False),
        ({"twinflow_enabled": True}, True),
        ({"twinflow_enabled": True, "twinflow_implementation": "host"}, False),
    ],
    ids=["no key", "off", "on", "the host's"],
)
def test_run_is_ours_where_it_is_on_and_not_left_to_the_host(keys, active):
    assert (active_options(SimpleNamespace(**keys)) is not None) is active


def test_options_are_those_of_the_parsed_configuration(folder, in_folder):
    options = active_options(host_config("sd3", folder, twinflow_target_step_count=4, twinflow_loss="barron"))
    assert isinstance(options, TwinFlowOptions)
    assert (options.target_step_count, options.loss, options.adversarial_enabled) == (4, "barron", True)


def test_what_is_mended_is_said_in_one_line_with_its_values(caplog):
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        log_mending("%s of %s", "the scheduler", "sana")
    assert caplog.messages == ["Mending SimpleTuner: the scheduler of sana."]


def test_values_of_a_run_that_is_off_are_not_read():
    assert active_options(SimpleNamespace(twinflow_enabled=False, twinflow_target_step_count=99)) is None


def test_options_are_parsed_once_and_one_is_told_from_true():
    config = SimpleNamespace(twinflow_enabled=True, twinflow_target_step_count=1, twinflow_enhanced_range=[0.2, 0.8])
    assert options_of(config) is options_of(SimpleNamespace(**vars(config)))
    with pytest.raises(TwinFlowConfigError, match="twinflow_target_step_count is true"):
        options_of(SimpleNamespace(**vars(config) | {"twinflow_target_step_count": True}))
