"""What the user wrote reaches the checks as it stands, whatever the host would have made of it."""

import json
import os

import pytest
from simpletuner.helpers.configuration import cli_utils, cmd_args, env_file, loader
from simpletuner.helpers.training.state_tracker import StateTracker
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.settings.given import EMA_ADDED, as_mapping, checked_arguments
from tests.host.settings.configs import REQUIRED_BY_HOST, SEED

OFF = {key: value for key, value in SEED.items() if not key.startswith("twinflow_")}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Where the host looks for a config, and variables that say nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StateTracker, "config_path", str(tmp_path))
    for name in ("ENV", "CONFIG_BACKEND", "CONFIG_PATH", "TRAINER_EXTRA_ARGS", "SIMPLETUNER_CONFIG_BACKEND"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def load(config: dict, **changes):
    return loader.load_config(config | REQUIRED_BY_HOST | changes)


def refusal(config: dict, **changes) -> tuple[str, ...]:
    with pytest.raises(TwinFlowConfigError) as refused:
        load(config, **changes)
    return refused.value.problems


@pytest.mark.parametrize(
    ("value", "found"),
    [("two", '"two"'), (2.0, "2.0"), ({"a": 1}, '{"a": 1}'), ([1, 2], "[1, 2]"), ("", '""'), (True, "true")],
)
def test_value_is_quoted_as_it_stands_in_the_file(value, found):
    [problem] = refusal(SEED, twinflow_target_step_count=value)
    assert problem.startswith(f"twinflow_target_step_count is {found}; allowed: a whole number from 1 to 8. Set it to")


@pytest.mark.parametrize("key", ["twinflow_require_ema", "--twinflow_require_ema"])
def test_false_in_quotes_is_false(key):
    """The host drops it, and the key's default is true."""
    assert load(SEED, use_ema=False, **{key: "false"}).twinflow_require_ema is False


def test_host_key_in_quotes_is_what_the_host_makes_of_it():
    assert load(SEED, controlnet="false", use_ema="true").use_ema is True
    [problem] = refusal(SEED, use_ema="false")
    assert problem.startswith('use_ema is "false", but twinflow_require_ema is true')


WITHOUT_EMA = {key: value for key, value in SEED.items() if key != "use_ema"}


@pytest.mark.parametrize(
    ("changes", "use_ema"),
    [
        ({}, True),
        ({"use_ema": None}, True),
        ({"twinflow_enabled": False}, False),
        ({"twinflow_implementation": "host", "twinflow_require_ema": False}, False),
        ({"twinflow_require_ema": False}, False),
        ({"twinflow_allow_no_ema_teacher": True}, False),
    ],
    ids=str,
)
def test_ema_is_turned_on_where_it_is_not_set_and_teaches_and_that_is_said_once(changes, use_ema, caplog):
    assert load(WITHOUT_EMA, **changes).use_ema is use_ema
    assert [record.message for record in caplog.records].count(EMA_ADDED) == use_ema


def test_ema_is_turned_on_for_a_command_line_too(monkeypatch, caplog):
    arguments = ["--model_family=sd3", "--twinflow_enabled=true", "--twinflow_loss=l2"]
    assert checked_arguments(arguments) == [*arguments, "--use_ema"]
    assert checked_arguments([*arguments, "--use_ema"]) == [*arguments, "--use_ema"]
    with pytest.raises(TwinFlowConfigError, match='use_ema is "false"'):
        checked_arguments([*arguments, "--use_ema=false"])


def test_placeholders_are_resolved_as_the_host_does(monkeypatch):
    monkeypatch.setenv("STEPS", "4")
    assert load(SEED, twinflow_target_step_count="{env:STEPS}").twinflow_target_step_count == 4


def test_every_problem_is_told_at_once(tmp_path):
    datasets = tmp_path / "data.json"
    datasets.write_text(json.dumps([{"id": "a", "slider_strength": -1.0}]), encoding="utf-8")
    problems = refusal(
        SEED,
        twinflow_step_count=2,
        twinflow_loss="l1",
        twinflow_image_free=True,
        controlnet=True,
        use_ema=False,
        model_family="infinitetalk",
        data_backend_config=str(datasets),
    )
    told = (
        "twinflow_step_count",
        "twinflow_loss",
        "twinflow_image_free",
        "use_ema",
        "controlnet",
        "slider_strength",
        "infinitetalk",
    )
    assert len(problems) == len(told)
    for problem, word in zip(problems, told, strict=True):
        assert word in problem
        assert "\n" not in problem


def test_conflicts_are_told_beside_a_wrong_switch():
    problems = refusal(SEED, twinflow_enabled="banana", controlnet=True)
    assert [problem.split()[0] for problem in problems] == ["twinflow_enabled", "controlnet"]


def test_keys_without_the_switch_are_refused():
    [problem] = refusal(OFF, twinflow_target_step_count=2, twinflow_loss="barron")
    assert problem.startswith("twinflow_target_step_count, twinflow_loss are set, but twinflow_enabled is not")
    assert "Set twinflow_enabled to true, or to false" in problem
    assert refusal(OFF, twinflow_enabled=None, twinflow_loss="l2")


@pytest.mark.parametrize("off", [False, "false", "off"])
def test_switched_off_is_quiet_whatever_else_is_set(off):
    wrong = {"twinflow_target_step_count": "two", "twinflow_loss": {}, "twinflow_enhanced_ratio": 5.0}
    config = load(OFF, twinflow_enabled=off, **wrong, twinflow_delta_t=0.02, controlnet=True)
    assert (config.twinflow_enabled, config.twinflow_target_step_count, config.twinflow_loss) == (False, 1, "l2")
    assert config.twinflow_delta_t == 0.02


@pytest.mark.parametrize("value", ["0", "false", "no", "None", 0, False, None])
def test_host_key_that_is_off_is_no_conflict(value):
    given = {key: value for key in ("controlnet", "mixflow_enabled", "nextlat_enabled") if value != "None"}
    assert load(SEED, **given).twinflow_enabled


@pytest.mark.parametrize("value", [0.0, 1.0, "1", None])
def test_snr_weight_of_one_is_no_conflict(value):
    if value == 0.0:
        assert refusal(SEED, snr_weight=value)
    else:
        assert load(SEED, snr_weight=value).twinflow_enabled


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"id": "a"}', "found an object"),
        (b"null", "found null"),
        (b'[1, {"id": "a"}]', "found 1 in the list"),
        (b'[{"id": "a",]', "line 1 column 13"),
        (b"\xff\xfe[", "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_data_config_that_is_no_list_of_datasets_is_named(content, found, tmp_path):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    [problem] = refusal(SEED, data_backend_config=str(path))
    for words in ("data_backend_config", str(path)[:40], found, "Mend the file"):
        assert words in problem
    assert "\n" not in problem
    assert load(OFF, data_backend_config=str(path))


@pytest.mark.parametrize("path", ["a" * 5_000, "config/\0.json"])
def test_text_that_is_no_path_to_a_data_config_is_left_to_the_host(path):
    assert refusal(SEED, data_backend_config=path, twinflow_delta_t="x")[0].startswith("twinflow_delta_t")


@pytest.mark.parametrize("value", [[], ["sd3"], {"sd3": 1}])
def test_family_that_is_no_name_is_refused_in_one_line(value):
    [line] = refusal(SEED, model_family=value)
    assert line.startswith("model_family is ")
    assert "which TwinFlow does not train" in line


@pytest.mark.parametrize("strength", ["big", {"x": 1}, [], True, 10**400, float("nan"), -1.0])
def test_slider_strength_that_is_not_one_is_named(strength, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": "cats", "slider_strength": strength}]), encoding="utf-8")
    if strength is True:  # which is 1
        assert load(SEED, data_backend_config=str(path))
        return
    [problem] = refusal(SEED, data_backend_config=str(path))
    for words in ("slider_strength is", "set it to 1.0 or remove it", "'cats'"):
        assert words in problem


@pytest.mark.parametrize("word", ["disable", "disabled"])
@pytest.mark.parametrize("dataset", [{"slider_strength": -1.0}, {"slider_strength": "big"}], ids=str)
def test_dataset_that_the_host_skips_is_no_conflict(word, dataset, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": "a", word: False} | dataset]), encoding="utf-8")
    assert refusal(SEED, data_backend_config=str(path))
    path.write_text(json.dumps([{"id": "a", word: True} | dataset]), encoding="utf-8")
    assert load(SEED, data_backend_config=str(path)).twinflow_enabled


def test_refused_configuration_of_a_trainer_is_not_replaced_by_a_saved_one(tmp_path):
    """The host falls back on `config/config.json` after any failure to read what it was given."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text(json.dumps(OFF | REQUIRED_BY_HOST), encoding="utf-8")
    assert loader.load_config(None).twinflow_enabled is False
    with pytest.raises(TwinFlowConfigError, match="twinflow_delta_t is 7"):
        Trainer(config=SEED | REQUIRED_BY_HOST | {"twinflow_delta_t": 7})


SCHNELL = {"model_family": "flux", "model_flavour": "schnell", "disable_assistant_lora": True}


@pytest.mark.parametrize("fast", [None, True, False])
def test_way_out_of_schnell_is_one_that_the_host_takes(fast):
    [problem] = refusal(SEED, **SCHNELL, flux_fast_schedule=fast)
    assert 'model_flavour is "schnell"' in problem
    assert "set flux_fast_schedule to false and i_know_what_i_am_doing to true" in problem
    assert refusal(SEED, **SCHNELL, flux_fast_schedule=True, i_know_what_i_am_doing=True) == (
        problem.replace("is false", "is true"),
    )
    taken = load(SEED, **SCHNELL, flux_fast_schedule=False, i_know_what_i_am_doing=True)
    assert taken.twinflow_enabled


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--a=1", "--b", "2", "--c"], {"a": "1", "b": "2", "c": True}),
        (["--a=1", "--a=2"], {"a": "2"}),
        (["train", "--a", "--b=x=y"], {"a": True, "b": "x=y"}),
    ],
)
def test_arguments_are_read_as_argparse_reads_them(arguments, given):
    assert as_mapping(arguments) == given


def test_arguments_are_checked_before_the_parser_sees_them():
    seed = [f"--{key}={value}" for key, value in (SEED | REQUIRED_BY_HOST).items() if value is not None]
    with pytest.raises(TwinFlowConfigError) as refused:
        cmd_args.parse_cmdline_args([*seed, "--twinflow_delta_t", "0,01", "--twinflow_loss=banana"], exit_on_error=True)
    delta, loss = refused.value.problems
    assert 'twinflow_delta_t is "0,01"; allowed: 0.0001 to 0.5' in delta
    assert 'twinflow_loss is "banana"' in loss
    off = [*seed, "--twinflow_enabled=false", "--twinflow_delta_t", "0,01", "--twinflow_loss=banana"]
    assert cmd_args.parse_cmdline_args(off).twinflow_delta_t == 0.01


@pytest.mark.parametrize(
    ("more", "use_ema"),
    [((), True), (("--use_ema",), True), (("--use_ema=false", "--twinflow_require_ema=false"), False)],
    ids=str,
)
def test_parser_gives_an_ema_where_the_command_line_says_nothing_of_it(more, use_ema, caplog):
    config = {key: value for key, value in (SEED | REQUIRED_BY_HOST).items() if value is not None and key != "use_ema"}
    seed = [f"--{key}={value}" for key, value in config.items()]
    assert cmd_args.parse_cmdline_args([*seed, *more]).use_ema is use_ema
    assert [record.message for record in caplog.records].count(EMA_ADDED) == (not more)


def test_environment_says_that_there_is_no_ema(monkeypatch):
    for value, said in (("false", True), ("true", False)):
        monkeypatch.setenv("USE_EMA", value)
        assert ("--use_ema=false" in env_file.load_env_config()) is said


def test_environment_names_the_keys_in_capitals(monkeypatch):
    monkeypatch.setenv("TWINFLOW_ENABLED", "true")
    monkeypatch.setenv("TWINFLOW_REQUIRE_EMA", "'false'")
    monkeypatch.setenv("TWINFLOW_ROLE_SHARES", '{"near": 1}')
    arguments = env_file.load_env_config()
    for argument in ("--twinflow_enabled=true", "--twinflow_require_ema=false", '--twinflow_role_shares={"near": 1}'):
        assert argument in arguments


def test_config_without_the_keys_is_handed_on_as_it_is():
    plain = OFF | {"report_to": ["wandb", "tensorboard"], "webhook_config": {"a": 1}}
    assert cli_utils.mapping_to_cli_args(plain) == cli_utils.mapping_to_cli_args.__wrapped__(plain)
    assert "TWINFLOW_ENABLED" not in os.environ
