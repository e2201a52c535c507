"""The declarations, their checks, and the page made of them."""

import runpy
from pathlib import Path

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.options import check_spelling

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


def test_misspelt_key_is_answered_with_the_nearest():
    with pytest.raises(TwinFlowConfigError, match="did you mean twinflow_enhanced_ratio"):
        check_spelling(["twinflow_enhance_ratio"])


def test_keys_of_others_are_not_our_business():
    check_spelling(["twin_flow", "model_family", "twinflow_enabled"])
