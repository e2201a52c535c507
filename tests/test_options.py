"""The declarations, their checks, and the page made of them."""

import pickle
import runpy
from pathlib import Path

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.options import from_text, misspelt

GENERATOR = Path(__file__).parents[1] / "docs/generate_options.py"


def test_documentation_page_is_what_the_declarations_say():
    page = runpy.run_path(str(GENERATOR))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), "run: python docs/generate_options.py"


def test_chinese_page_is_what_the_declarations_and_their_translations_say():
    page = runpy.run_path(str(GENERATOR))
    assert page["CHINESE"].read_text(encoding="utf-8") == page["render_chinese"](), (
        "run: python docs/generate_options.py"
    )


def test_translation_of_another_help_is_found():
    page = runpy.run_path(str(GENERATOR))
    texts = {name: {"of": TwinFlowOptions.help(name)} for name in TwinFlowOptions.names()}
    assert page["stale"]({"help": texts}) == []
    assert page["stale"]({"help": texts | {"loss": {"of": "What it was before."}}}) == ["loss"]


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
        ("twinflow_target_step_count", 2.0, "a whole number from 1 to 8"),
        ("twinflow_target_step_count", 10**400, "1 to 8"),
        ("twinflow_target_step_count", [1, 2], "1 to 8"),
        ("twinflow_enhanced_ratio", "much", "0 to below 1"),
        ("twinflow_enhanced_ratio", 1.0, "guidance scale is 1 / (1 - ratio)"),
        ("twinflow_enhanced_ratio", 1, "0 to below 1"),
        ("twinflow_enhanced_ratio", {"ratio": 0.5}, "0 to below 1"),
        ("twinflow_loss", "", '"l2" or "barron"'),
        ("twinflow_loss", ["l2"], '"l2" or "barron"'),
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
        ("twinflow_role_shares", {"near": 1, "any_step": -1}, "from 0 up"),
        ("twinflow_role_shares", {"near": 1, "any_step": "1"}, "from 0 up"),
        ("twinflow_role_shares", {"near": True}, "from 0 up"),
        ("twinflow_role_shares", {"near": float("inf")}, "from 0 up"),
        ("twinflow_role_shares", {"near": 10**400}, "from 0 up"),
        ("twinflow_role_shares", {"near": 0.0}, "at least one of the first three above 0"),
        ("twinflow_role_shares", {}, "at least one of the first three above 0"),
        ("twinflow_role_shares", {"twin": 1.0}, "at least one of the first three above 0"),
        ("twinflow_role_shares", {"near": 1e-9, "twin": 1}, "a thousandth of the largest"),
        ("twinflow_enhanced_range", [0, 10**400], "[low, high]"),
        ("twinflow_enhanced_range", "", "[low, high]"),
        ("twinflow_enhanced_range", "[" * 100_000, "[low, high]"),
        ("twinflow_role_shares", ["near"], "a JSON object"),
    ],
)
def test_wrong_value_is_refused_with_key_value_range_and_way_out(key, value, allowed):
    with pytest.raises(TwinFlowConfigError) as refusal:
        TwinFlowOptions.from_mapping({key: value})
    message = str(refusal.value)
    for words in (f"{key} is ", value[:40] if isinstance(value, str) else shown(value), allowed, "default"):
        assert words in message
    assert "\n" not in message
    assert len(message) < 500


def test_every_wrong_value_and_contradiction_is_told_at_once():
    values = {
        "twinflow_enabled": True,
        "twinflow_target_step_count": "two",
        "twinflow_loss": "l1",
        "twinflow_image_free": True,
    }
    with pytest.raises(TwinFlowConfigError) as refusal:
        TwinFlowOptions.from_mapping(values)
    steps, loss, image_free = refusal.value.problems
    assert "twinflow_target_step_count" in steps
    assert "twinflow_loss" in loss
    assert "twinflow_image_free" in image_free
    assert str(refusal.value).splitlines() == [
        "3 problems in this configuration:",
        f"  1. {steps}",
        f"  2. {loss}",
        f"  3. {image_free}",
    ]
    copied = pickle.loads(pickle.dumps(refusal.value))
    assert (copied.problems, str(copied)) == (refusal.value.problems, str(refusal.value))


def test_wrong_value_is_shown_as_the_user_wrote_it():
    _, refused = TwinFlowOptions.read({"twinflow_rectify_weight": float("nan")}, {"twinflow_rectify_weight": " nan"})
    assert 'twinflow_rectify_weight is " nan"' in refused["twinflow_rectify_weight"]


@pytest.mark.parametrize(
    ("key", "value", "way_out"),
    [
        ("twinflow_implementation", "Paper", 'Set it to "paper" or remove it (default paper)'),
        ("twinflow_implementation", "both", "Set it to one of these"),
        ("twinflow_image_free", "perhaps", "Set it to true or false"),
        ("twinflow_delta_t", 2, "Set it to a value in that range"),
    ],
)
def test_way_out_names_what_was_meant(key, value, way_out):
    _, refused = TwinFlowOptions.read({key: value})
    assert way_out in refused[key]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("twinflow_enabled", "false", False),
        ("twinflow_enabled", "True", True),
        ("twinflow_enabled", "perhaps", "perhaps"),
        ("twinflow_enabled", "", ""),
        ("twinflow_target_step_count", " 2 ", 2),
        ("twinflow_target_step_count", "2.0", "2.0"),
        ("twinflow_target_step_count", "two", "two"),
        ("twinflow_delta_t", "1e-3", 1e-3),
        ("twinflow_delta_t", "0,01", "0,01"),
        ("twinflow_loss", "l2 ", "l2"),
        ("twinflow_role_shares", '{"near": 1}', '{"near": 1}'),
    ],
)
def test_text_is_read_as_what_it_stands_for(key, text, value):
    read = from_text(key, text)
    assert (read, type(read)) == (value, type(value))


def test_text_of_several_lines_is_shown_in_one():
    _, refused = TwinFlowOptions.read({"twinflow_role_shares": '{\n  "onestep": 1\n}'})
    assert 'twinflow_role_shares is { "onestep": 1 }; allowed' in refused["twinflow_role_shares"]


def test_long_value_is_cut():
    assert len(shown("x" * 1000)) < 100
    assert "16610 bits" in shown(10**5000)


@pytest.mark.parametrize("value", [0.0, 0, 0.999])
def test_ends_of_a_range_are_allowed(value):
    assert TwinFlowOptions.from_mapping({"twinflow_enhanced_ratio": value}).enhanced_ratio == value


@pytest.mark.parametrize("value", [[0, 0], [0.5, 0.5], [0, 1]])
def test_a_range_may_be_a_single_time_or_all_of_them(value):
    assert TwinFlowOptions.from_mapping({"twinflow_enhanced_range": value}).enhanced_range == tuple(value)


@pytest.mark.parametrize("value", [[0.2, 0.8], "[0.2, 0.8]"])
def test_range_is_read_from_a_list_and_from_its_text(value):
    assert TwinFlowOptions.from_mapping({"twinflow_enhanced_range": value}).enhanced_range == (0.2, 0.8)


@pytest.mark.parametrize("value", [{"near": 1, "one_step": 3}, '{"near": 1, "one_step": 3}'])
def test_shares_are_read_from_an_object_and_from_its_text(value):
    shares = TwinFlowOptions.from_mapping({"twinflow_role_shares": value}).role_shares
    assert shares == {Role.near: 1.0, Role.one_step: 3.0}


def test_misspelt_keys_are_answered_with_the_nearest():
    ratio, capitals, dashes, name = misspelt(
        ["twinflow_enhance_ratio", "TWINFLOW_LOSS", "twinflow-enabled", "twinflow", "twinflow_enhance_ratio"]
    )
    assert ratio == (
        "twinflow_enhance_ratio is not a TwinFlow key; did you mean twinflow_enhanced_ratio? "
        "All keys are in docs/options.md."
    )
    assert capitals == "TWINFLOW_LOSS is not a TwinFlow key; did you mean twinflow_loss?"
    assert "did you mean twinflow_enabled?" in dashes
    assert name.startswith("twinflow is not a TwinFlow key")


def test_keys_of_others_are_not_our_business():
    assert misspelt(["twin_flow", "model_family", "twinflow_enabled"]) == []


def test_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(TwinFlowConfigError, match=r"nonsense is no setting; there are: .*estimate_order"):
        TwinFlowOptions(nonsense=1)


@pytest.mark.parametrize("value", [{(1, 2): 3}, {1: 2}], ids=["pair", "number"])
def test_value_that_is_no_json_is_refused_in_one_line(value):
    _, refused = TwinFlowOptions.read({"twinflow_role_shares": value})
    assert refused["twinflow_role_shares"].startswith("twinflow_role_shares is ")


def test_shares_that_are_asked_for_are_a_copy():
    options = TwinFlowOptions(role_shares={"near": 1})
    options.roles()[Role.twin] = 9.0
    assert options.roles() == {Role.near: 1.0}
