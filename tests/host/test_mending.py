"""The log line of what is mended."""

import logging

from simpletuner_twinflow.host.mending import log_mending


def test_what_is_mended_is_said_in_one_line_with_its_values(caplog):
    with caplog.at_level(logging.INFO, logger="simpletuner_twinflow"):
        log_mending("%s of %s", "the scheduler", "sana")
    assert caplog.messages == ["Mending SimpleTuner: the scheduler of sana."]
