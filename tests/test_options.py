"""The declarations, their checks, and the page made of them."""

import runpy
from pathlib import Path

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.options import check_spelling
from simpletuner_twinflow.roles import Role

GENERATOR = Path(__file__).parents[1] / "docs/generate_options.py"


def test_documentation_page_is_what_the_declarations_say():
    page = runpy.run_path(str(GENERATOR))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), "run: python docs/generate_options.py"


def test_config_without_the_keys_gives_the_defaults():
    assert TwinFlowOptions.from_mapping({"model_family": "sd3"}) == TwinFlowOptions()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("twinflow_enabled", "yes", "true or false"),
        ("twinflow_target_step_count", 0, "1 to 8"),
        ("twinflow_target_step_count", 1.5, "1 to 8"),
        ("twinflow_target_step_count", True, "1 to 8"),
        ("twinflow_delta_t", float("nan"), "0.0001 to 0.5"),
        ("twinflow_delta_t", float("inf"), "0.0001 to 0.5"),
        ("twinflow_enhanced_ratio", "much", "0 to 10"),
        ("twinflow_implementation", "both", '"paper" or "host"'),
        ("twinflow_loss", "l1", '"l2" or "barron"'),
        ("twinflow_enhanced_range", 0.8, "[low, high]"),
        ("twinflow_enhanced_range", "0.8", "[low, high]"),
        ("twinflow_enhanced_range", [0.8, 0.2], "[low, high]"),
        ("twinflow_enhanced_range", [0.2, 1.5], "[low, high]"),
        ("twinflow_enhanced_range", [0.2, float("nan")], "[low, high]"),
        ("twinflow_enhanced_range", "[0.2, 0.8", "[low, high]"),
        ("twinflow_role_shares", {"onestep": 1}, "one_step, near, any_step, twin"),
        ("twinflow_role_shares", {"near": -1}, "from 0 up"),
        ("twinflow_role_shares", {"near": True}, "from 0 up"),
        ("twinflow_role_shares", {"near": float("inf")}, "from 0 up"),
        ("twinflow_role_shares", {"near": 0.0}, "at least one above 0"),
        ("twinflow_role_shares", ["near"], "a JSON object"),
    ],
)
def test_wrong_value_is_refused_with_key_value_range_and_way_out(key, value, allowed):
    with pytest.raises(TwinFlowConfigError) as refusal:
        TwinFlowOptions.from_mapping({key: value})
    for words in (key, repr(value), allowed, "default"):
        assert words in str(refusal.value)


@pytest.mark.parametrize("value", [0.0, 0, 10])
def test_ends_of_a_range_are_allowed(value):
    assert TwinFlowOptions.from_mapping({"twinflow_enhanced_ratio": value}).enhanced_ratio == value


@pytest.mark.parametrize("value", [[0.2, 0.8], "[0.2, 0.8]"])
def test_range_is_read_from_a_list_and_from_its_text(value):
    assert TwinFlowOptions.from_mapping({"twinflow_enhanced_range": value}).enhanced_range == (0.2, 0.8)


@pytest.mark.parametrize("value", [{"near": 1, "one_step": 3}, '{"near": 1, "one_step": 3}'])
def test_shares_are_read_from_an_object_and_from_its_text(value):
    shares = TwinFlowOptions.from_mapping({"twinflow_role_shares": value}).role_shares
    assert shares == {Role.near: 1.0, Role.one_step: 3.0}


@pytest.mark.parametrize(
    ("adversarial", "shares", "accepted"),
    [
        (True, {"near": 1, "twin": 1}, True),
        (False, {"near": 1}, True),
        (True, {"near": 1}, False),
        (False, {"near": 1, "twin": 1}, False),
    ],
)
def test_twin_rows_and_adversarial_branch_need_each_other(adversarial, shares, accepted):
    values = {"twinflow_role_shares": shares, "twinflow_adversarial_enabled": adversarial}
    TwinFlowOptions.from_mapping(values)  # nothing trains, so nothing contradicts
    trained = values | {"twinflow_enabled": True}
    if accepted:
        assert TwinFlowOptions.from_mapping(trained).role_shares
        return
    with pytest.raises(TwinFlowConfigError, match=r"twinflow_role_shares gives twin .* twinflow_adversarial_enabled"):
        TwinFlowOptions.from_mapping(trained)
    TwinFlowOptions.from_mapping(trained | {"twinflow_implementation": "host"})


def test_image_free_training_needs_the_adversarial_branch():
    values = {"twinflow_enabled": True, "twinflow_image_free": True}
    with pytest.raises(TwinFlowConfigError, match="twinflow_image_free is true while twinflow_adversarial_enabled"):
        TwinFlowOptions.from_mapping(values)
    assert TwinFlowOptions.from_mapping(values | {"twinflow_adversarial_enabled": True}).image_free


def test_misspelt_key_is_answered_with_the_nearest():
    with pytest.raises(TwinFlowConfigError, match="did you mean twinflow_enhanced_ratio"):
        check_spelling(["twinflow_enhance_ratio"])


def test_keys_of_others_are_not_our_business():
    check_spelling(["twin_flow", "model_family", "twinflow_enabled"])
