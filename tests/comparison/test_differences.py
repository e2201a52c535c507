"""The keys in which runs differ, without their secrets."""

import pytest

from simpletuner_twinflow.comparison.differences import HIDDEN, NOT_SET, differences, shown
from simpletuner_twinflow.comparison.run import Run


def run(config: dict, kind: str = "W&B's configuration") -> Run:
    return Run("x", [], config=config, config_kind=kind)


def found(*runs: Run) -> dict[str, list[str]]:
    return {each.key: each.values for each in differences(runs)}


def test_only_keys_that_differ_twinflow_first():
    runs = run({"a": 1, "same": [1, {"x": 2}], "twinflow_enabled": True}), run({"a": 2, "same": [1, {"x": 2}]})
    assert found(*runs) == {"twinflow_enabled": ["true", NOT_SET], "a": ["1", "2"]}
    assert [*found(*runs)] == ["twinflow_enabled", "a"]


def test_a_plain_runs_defaults_of_twinflow_are_not_shown_as_if_they_acted():
    on = {"twinflow_enabled": True, "twinflow_target_step_count": 4}
    off = {"twinflow_enabled": False, "twinflow_target_step_count": 1}
    assert found(run(on), run(off)) == {
        "twinflow_enabled": ["true", "false"],
        "twinflow_target_step_count": ["4", "not used"],
    }


def test_a_number_is_the_same_as_its_text():
    assert found(run({"rate": "3e-4", "n": 1}), run({"rate": 0.0003, "n": 1.0})) == {}
    assert [*found(run({"flag": True}), run({"flag": 1}))] == ["flag"]


def test_a_key_that_another_program_did_not_record_is_no_difference():
    runs = [run({"a": 1, "b": 1, "kind": "NONE"}), run({"a": 2, "kind": "none"}, "config file")]
    assert found(*runs) == {"a": ["1", "2"]}
    assert found(*runs, run({}, "")) == {"a": ["1", "2", "no configuration"]}


@pytest.mark.parametrize(
    "key",
    ["hub_token", "aws_secret_access_key", "webhook_config", "wandb_api_key", "password", "HF_TOKEN", "access_key"],
)
def test_a_secret_key_is_never_shown_and_said_to_differ(key):
    assert found(run({key: "abc123"}), run({key: "def456"})) == {key: [HIDDEN, HIDDEN]}
    assert found(run({key: "abc123"}), run({key: None})) == {key: [HIDDEN, "None"]}


@pytest.mark.parametrize(
    "value",
    [
        "hf_" + "a" * 30,
        "https://me:word@example.org/x",
        {"inside": "hf_" + "a" * 30},
        {"api_key": "abc123"},
        [{"hub_token": "abc123"}],
    ],
)
def test_a_secret_value_is_never_shown(value):
    text = shown("some_key", value)
    assert HIDDEN in text
    assert all(word not in text for word in ("aaaa", "word", "abc123"))


@pytest.mark.parametrize("key", ["tokenizer_max_length", "max_tokens", "t5_num_tokens"])
def test_counts_of_tokens_are_no_secret(key):
    assert shown(key, 77) == "77"


def test_a_long_value_is_cut():
    assert len(shown("prompt", "x" * 1000)) == 200
