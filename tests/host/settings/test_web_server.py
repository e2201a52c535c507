"""The keys in the host's web server and in the process it trains in, both started as the host starts them."""

import json
import time

import pytest

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.options import PREFIX
from tests.webui import server

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """The fields as the web pages fetch them from `simpletuner server`."""
    with server.running(tmp_path_factory.mktemp("home")) as address:
        yield server.ask(f"{address}/api/fields/metadata")["fields"]


@pytest.mark.parametrize("name", TwinFlowOptions.names())
def test_web_server_offers_every_key_with_label_help_default_and_dependencies(name, fields):
    field, info = fields[PREFIX + name], TwinFlowOptions.info(name)
    assert field["ui_label"] == f"TwinFlow: {info.label}"
    assert TwinFlowOptions.help(name) in field["help_text"]
    default, own = field["default_value"], TwinFlowOptions.model_fields[name].default
    assert default == own or json.loads(default) == list(own)
    if name != "enabled":
        assert {dependency["field"] for dependency in field["dependencies"]} == set(info.requires)


def test_training_child_of_the_web_server_knows_the_keys(tmp_path):
    """Submitted through the host's process keeper, which starts the interpreter of a web job."""
    from simpletuner.simpletuner_sdk import process_keeper

    def report(config):
        import json as encoder

        from simpletuner.helpers.configuration.cmd_args import get_argument_parser

        known = [action.dest for action in get_argument_parser()._actions if action.dest.startswith("twinflow_")]
        with open(config.answer, "w", encoding="utf-8") as file:
            encoder.dump(known, file)

    written = tmp_path / "answer.json"
    job = process_keeper.submit_job("twinflow-test", report, {"answer": str(written), "output_dir": str(tmp_path)})
    try:
        for _ in range(120):
            if written.exists() and written.stat().st_size:
                break
            time.sleep(1)
        assert set(json.loads(written.read_text(encoding="utf-8"))) == set(TwinFlowOptions.keys())
    finally:
        job.terminate()
