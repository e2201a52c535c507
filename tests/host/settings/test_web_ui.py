"""The web UI's pages and answers, from the host's real application: the block, Validate, Run, fields and Save."""

import html
import json
import re

import pytest
from fastapi.testclient import TestClient
from simpletuner.helpers.configuration import loader
from simpletuner.simpletuner_sdk.server.app import create_app
from simpletuner.simpletuner_sdk.server.services import training_service
from simpletuner.simpletuner_sdk.server.services.cloud.auth.middleware import get_current_user
from simpletuner.simpletuner_sdk.server.services.config_store import ConfigStore
from simpletuner.simpletuner_sdk.server.services.field_service import FieldService
from simpletuner.simpletuner_sdk.server.services.webui_state import WebUIStateStore

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.host import seams
from simpletuner_twinflow.host.settings.examined import examined
from simpletuner_twinflow.host.settings.given import EMA_ADDED, checked
from simpletuner_twinflow.host.settings.web_ui import found_in, wrong_value
from simpletuner_twinflow.options import PREFIX
from tests.host.settings.configs import RUNNABLE as SHORT

NAME = "few-steps"
RUNNABLE = SHORT | {"max_train_steps": 1000}  # a few steps are worth a warning of their own
OFF = {key: value for key, value in RUNNABLE.items() if not key.startswith(PREFIX)}
ITEM = re.compile(r"<li>(.*?)</li>", re.DOTALL)


@pytest.fixture(scope="module")
def application():
    """The host's own application, whose user is whoever asks."""
    app = create_app()
    app.dependency_overrides[get_current_user] = lambda: None
    return app


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the host keeps what the web UI sets; its working directory is elsewhere."""
    monkeypatch.setenv("SIMPLETUNER_WEB_UI_CONFIG", str(tmp_path / "webui"))
    monkeypatch.setattr(ConfigStore, "_instances", {})  # which keep the folder of an earlier test
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    configs = tmp_path / "configs"
    (configs / NAME).mkdir(parents=True)
    (configs / "data.json").write_text("[]", encoding="utf-8")
    store = WebUIStateStore()
    defaults = store.load_defaults()
    defaults.configs_dir, defaults.output_dir, defaults.active_config = str(configs), str(tmp_path / "out"), NAME
    store.save_defaults(defaults)
    return configs


@pytest.fixture
def write(folder):
    """Writes the active configuration."""
    file = folder / NAME / "config.json"
    return lambda config: file.write_text(json.dumps(config), encoding="utf-8") and file


@pytest.fixture
def client(application, folder, write):
    """Asks the application."""
    write({})
    return TestClient(application, base_url="http://localhost")


def form(config):
    """A configuration as the page's form posts it."""
    given = {f"--{key}": value for key, value in config.items() if value is not None}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}


def post(client, action, config):
    """What the page shows after Validate ("validate") or Run ("start")."""
    answer = client.post(f"/api/training/{action}", data=form(config))
    answer.raise_for_status()
    return answer.text


def lines(page):
    return [html.unescape(line) for line in ITEM.findall(page)]


def start_up(config):
    """The lines with which a run's start-up refuses a configuration."""
    try:
        checked(config)
    except TwinFlowConfigError as error:
        return list(error.problems)
    return []


WRONG = RUNNABLE | {
    "twinflow_enhanced_ratio": 1.5,
    "twinflow_role_shares": {"onestep": 1},
    "controlnet": True,
    "nextlat_enabled": True,
}


@pytest.mark.parametrize("action", ["validate", "start"])
def test_validate_and_run_show_every_problem_of_the_start_up_at_once(action, client, monkeypatch):
    monkeypatch.setattr(training_service, "start_training_job", lambda *_, **__: pytest.fail("a run was started"))
    page = post(client, action, WRONG)
    shown = lines(page)
    expected = start_up(WRONG)
    assert [line.split()[0] for line in expected] == [
        "twinflow_enhanced_ratio", "twinflow_role_shares", "controlnet", "nextlat_enabled",
    ]  # fmt: skip
    assert [line.replace('"1.5"', "1.5") for line in shown] == expected
    assert ("Validation Failed" if action == "validate" else "Cannot Start Training") in page


def test_good_configuration_passes(client):
    assert "Configuration Valid" in post(client, "validate", RUNNABLE)


def test_what_a_run_overrides_or_adds_is_a_warning(client, monkeypatch):
    changes = {"validation_guidance": 7.5, "ema_update_interval": 10, "use_ema": False}
    page = post(client, "validate", RUNNABLE | changes)
    assert "Validation Warnings" in page
    shown = lines(page)
    assert EMA_ADDED in shown
    assert any("Overridden: validation_guidance 7.5" in line for line in shown)
    assert any(line.startswith("ema_update_interval is 10") for line in shown)
    started = []
    monkeypatch.setattr(
        training_service, "start_training_job",
        lambda config, **_: started.append(config) or training_service.TrainingJobResult("1", "running"),
    )  # fmt: skip
    assert "Training Starting" in post(client, "start", RUNNABLE | changes)
    [config] = started
    assert loader.load_config(config).use_ema is True  # so the run starts too, and as was said


@pytest.mark.parametrize("posted", [True, False], ids=["in the form", "in the file alone"])
def test_datasets_are_examined_where_the_web_ui_finds_them(posted, client, folder, write):
    write(RUNNABLE)
    config = RUNNABLE if posted else RUNNABLE | {"data_backend_config": None}
    assert "data_backend_config" not in post(client, "validate", config)
    (folder / "data.json").write_text("[1]", encoding="utf-8")
    [line] = lines(post(client, "validate", config))
    assert "must hold a JSON list of objects" in line


def test_what_a_user_wrote_is_shown_as_text(client):
    page = post(client, "validate", RUNNABLE | {"twinflow_role_shares": "<img src=x>"})
    assert "<img" not in page
    assert "twinflow_role_shares is &lt;img src=x&gt;" in page


SWITCHED_OFF = {"twinflow_enabled": False, "controlnet": True, "twinflow_enhanced_ratio": 1.5}


@pytest.mark.parametrize("changes", [{}, {"max_train_steps": 0}, SWITCHED_OFF], ids=["good", "wrong", "off"])
def test_without_twinflow_the_answer_is_the_hosts_own(changes, client, monkeypatch):
    ours = [post(client, "validate", OFF | changes)]
    bare = training_service.validate_training_config.__wrapped__
    monkeypatch.setattr(training_service, "validate_training_config", bare)
    assert [post(client, "validate", OFF | changes)] == ours


def test_host_that_does_not_fit_is_a_problem_of_a_twinflow_run_alone(monkeypatch):
    monkeypatch.setattr(seams, "broken", ["trainer.Trainer.step is missing"])
    config = RUNNABLE | {"data_backend_config": None}
    [problem] = found_in(config)[0]
    assert "trainer.Trainer.step is missing" in problem
    assert found_in(config | {"twinflow_enabled": False}) == ([], [])


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("twinflow_delta_t", "0.005", False),
        ("twinflow_delta_t", "5", True),
        ("twinflow_enhanced_ratio", "0.25", False),
        ("twinflow_enhanced_ratio", "1", True),
        ("twinflow_target_step_count", "9", True),
        ("twinflow_guidance_scale", "", False),
        ("twinflow_enhanced_range", "[0.8, 0.2]", True),
        ("twinflow_enhanced_range", "[\n 0.2,\n 0.8\n]", False),
        ("twinflow_enabled", "true", False),
    ],
)
def test_field_with_a_wrong_value_says_what_is_allowed(key, value, wrong, client):
    said = client.post(f"/api/validate/{key}", data={key: value}).text
    assert bool(said) == wrong == bool(wrong_value(key, value))
    if wrong:
        assert html.unescape(said).startswith(f"{key} is ")
        assert TwinFlowOptions.allowed(key.removeprefix(PREFIX)) in html.unescape(said)


def test_other_fields_are_left_to_the_host(client):
    assert "learning_rate" not in client.post("/api/validate/learning_rate", data={"learning_rate": "5"}).text


def tab(config):
    """The fields of the training tab by block, in the order of the page, and its blocks."""
    values = FieldService().prepare_tab_field_values("training", config, {})
    fields, blocks = FieldService().build_template_tab("training", values, config)
    return fields, blocks


def test_keys_stand_in_one_block_in_order_below_the_loss_functions():
    fields, blocks = tab(RUNNABLE)
    ours = [field for field in fields if field["section_id"] == "twinflow"]
    assert [field["id"] for field in ours] == list(TwinFlowOptions.keys())
    assert all(field["label"].startswith("TwinFlow: ") for field in ours)
    assert not any(field["id"].startswith(PREFIX) for field in fields if field not in ours)
    order = [block["id"] for block in blocks]
    assert order.index("twinflow") == order.index("noise_settings") - 1
    assert [block["title"] for block in blocks if block["id"] == "twinflow"] == ["TwinFlow"]


@pytest.mark.parametrize("family", ["sd3", "sdxl", "sana"])
def test_block_is_there_for_every_family_that_can_be_trained(family):
    fields, _ = tab({"model_family": family})
    assert len([field for field in fields if field["section_id"] == "twinflow"]) == len(TwinFlowOptions.keys())


def test_numbers_have_a_step_that_takes_every_allowed_value():
    fields = {field["id"].removeprefix(PREFIX): field for field in tab(RUNNABLE)[0]}
    for name in TwinFlowOptions.names():
        step = {int: 1, float: "any"}.get(TwinFlowOptions.type_of(name))
        assert fields[name].get("step") == step, name


@pytest.mark.parametrize("given", [None, [0.2, 1], "[0.2, 1]", "[0.2"], ids=str)
def test_lists_are_shown_as_lists(given):
    config = RUNNABLE if given is None else RUNNABLE | {"twinflow_enhanced_range": given}
    [field] = [field for field in tab(config)[0] if field["id"] == "twinflow_enhanced_range"]
    assert field["value"] == {None: [0.0, 1.0], "[0.2": "[0.2"}.get(given if given != [0.2, 1] else "", [0.2, 1])


SAVED = {
    "twinflow_enabled": True,
    "twinflow_target_step_count": 2,
    "twinflow_role_shares": {"near": 1, "sampler_step": 2},
    "twinflow_enhanced_range": [0.2, 0.8],
    "twinflow_guidance_scale": 3,
    "twinflow_delta_t": 0.005,
}


def save(client, config):
    answer = client.post("/api/training/config", data=form(config) | {"merge_environment_config": "true"})
    assert "Configuration saved" in answer.text


def test_saving_keeps_lists_and_objects_and_what_was_saved_is_what_starts(client, write):
    file = write({})
    save(client, OFF | SAVED)
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert {key: value for key, value in saved.items() if key.startswith(PREFIX)} == SAVED
    report = examined(saved)
    assert (report["problems"], report["on"]) == ([], True)
    assert report["options"]["twinflow_delta_t"] == {"value": 0.005, "from": "config"}


def test_cleared_fields_are_unset_again(client, write):
    file = write(OFF | SAVED)
    save(client, OFF | SAVED | {"twinflow_role_shares": "", "twinflow_guidance_scale": ""})
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert {key for key in SAVED if key not in saved} == {"twinflow_role_shares", "twinflow_guidance_scale"}
