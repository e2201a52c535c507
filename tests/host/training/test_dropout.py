"""lora_dropout becomes 0 in a TwinFlow run of an adapter, unless the host's switch keeps it."""

import pytest
from accelerate import Accelerator
from simpletuner.helpers.training import trainer

from simpletuner_twinflow.host.training.dropout import KEPT_BY
from testbed.host_models.build import host_config

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def dropout(folder, monkeypatch):
    """What the host's own check at start-up leaves of lora_dropout 0.1. Arguments: of the config."""
    monkeypatch.delenv(KEPT_BY, raising=False)

    def after(**changes):
        config = host_config("sd3", folder, **{"model_type": "lora", "lora_dropout": 0.1} | changes)
        trainer.safety_check(config, Accelerator(cpu=True))
        return config.lora_dropout

    return after


def test_adapter_of_a_twinflow_run_trains_without_dropout_and_the_log_says_so(dropout, caplog):
    assert dropout() == 0.0
    assert "lora_dropout is 0.1 and becomes 0" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"twinflow_enabled": False}, {"twinflow_implementation": "host"}, {"model_type": "full"}],
    ids=["off", "the host's", "full"],
)
def test_dropout_of_other_runs_stays(changes, dropout):
    assert dropout(**changes) == 0.1


@pytest.mark.parametrize("value", ["1", "TRUE", " yes ", "on"])
def test_hosts_switch_keeps_the_dropout_with_a_warning(value, dropout, monkeypatch, caplog):
    monkeypatch.setenv(KEPT_BY, value)
    assert dropout() == 0.1
    assert "lora_dropout stays 0.1" in caplog.text


def test_no_dropout_is_nothing_to_say(dropout, caplog):
    assert dropout(lora_dropout=0.0) == 0.0
    assert "lora_dropout" not in caplog.text
