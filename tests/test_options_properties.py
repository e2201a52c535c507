"""Laws of the options that hold for any values, drawn by hypothesis."""

import json
import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.declaration import limits
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.method.settings import MIN_SHARE
from simpletuner_twinflow.options import PREFIX, from_text

KEYS = TwinFlowOptions.keys()
RANGE, SHARES = "twinflow_enhanced_range", "twinflow_role_shares"
FIRST_THREE = (Role.one_step, Role.near, Role.any_step)
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 0.5, 10**400, -(10**400), True])
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Role, "other"]), inner, max_size=4),
    max_leaves=6,
)
padding = st.text(" \t\n", max_size=2)


def is_number(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_range(value):
    return (
        type(value) in (list, tuple)
        and len(value) == 2
        and all(map(is_number, value))
        and 0 <= value[0] <= value[1] <= 1
    )


def are_shares(value):
    if type(value) is not dict or not set(value) <= set(Role):
        return False
    shares = value.values()
    return (
        all(is_number(share) and share >= 0 for share in shares)
        and any(value.get(role) for role in FIRST_THREE)
        and all(share == 0 or share >= MIN_SHARE * max(shares) for share in shares)
    )


def is_allowed(key, value):
    """What docs/options.md says, from the declared type and range alone."""
    name = key.removeprefix(PREFIX)
    if value is None:
        return True
    if key in (RANGE, SHARES):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return False
        return {RANGE: is_range, SHARES: are_shares}[key](value)
    if choices := TwinFlowOptions.choices(name):
        return type(value) is str and value in choices
    kind = TwinFlowOptions.type_of(name)
    if kind is bool:
        return type(value) is bool
    low, high, below = limits(TwinFlowOptions.model_fields[name])
    within = (type(value) is int or (kind is float and type(value) is float)) and low <= value <= high
    return within and not (below and value == high)


def allowed_values(key):
    """Any value of a key that is allowed."""
    name = key.removeprefix(PREFIX)
    kind, (low, high, below) = TwinFlowOptions.type_of(name), limits(TwinFlowOptions.model_fields[name])
    if key == RANGE:
        return st.lists(st.floats(0, 1) | st.integers(0, 1), min_size=2, max_size=2).map(sorted)
    if key == SHARES:
        share = st.just(0) | st.integers(1, 1000) | st.floats(1, 1000)
        return st.dictionaries(st.sampled_from([str(role) for role in Role]), share).filter(are_shares)
    if choices := TwinFlowOptions.choices(name):
        return st.sampled_from(choices)
    return {
        bool: st.booleans(),
        int: st.integers(low, high) if kind is int else None,
        float: st.floats(low, high, exclude_max=below) if kind is float else None,
    }[kind]


def near_values(key):
    """Values of the right type on both sides of what is allowed."""
    if key == RANGE:
        return st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=2)
    if key == SHARES:
        return st.dictionaries(st.sampled_from([str(role) for role in Role]), st.sampled_from([-1, 0, 9e-4, 1e-3, 1]))
    low, high, _ = limits(TwinFlowOptions.model_fields[key.removeprefix(PREFIX)])
    if low is None or high is None:
        return st.nothing()
    return st.sampled_from([low - 1, math.nextafter(low, -1), low, high, math.nextafter(high, 1e9), high + 1])


anything = st.fixed_dictionaries({}, optional={key: allowed_values(key) | near_values(key) | junk for key in KEYS})


@given(anything)
def test_any_mapping_settles_or_is_refused_with_a_line_for_each_key_that_is_wrong(values):
    wrong = [key for key in KEYS if key in values and not is_allowed(key, values[key])]
    options, refused = TwinFlowOptions.read(values)
    assert sorted(refused) == sorted(wrong)
    contradictions = list(options.contradictions())
    if not wrong and not contradictions:
        assert TwinFlowOptions.from_mapping(values) == options
        return
    with pytest.raises(TwinFlowConfigError) as refusal:
        TwinFlowOptions.from_mapping(values)
    lines = refusal.value.problems
    assert len(lines) == len(wrong) + len(contradictions)
    for key, line in zip((key for key in KEYS if key in wrong), lines, strict=False):
        assert line.startswith(f"{key} is ")
    assert all(PREFIX in line and "\n" not in line for line in lines)


@given(anything)
def test_what_is_refused_has_its_default_and_what_is_not_has_its_value(values):
    options, refused = TwinFlowOptions.read(values)
    for key in KEYS:
        name, value = key.removeprefix(PREFIX), values.get(key)
        if key in refused or value is None:
            assert getattr(options, name) == getattr(TwinFlowOptions(), name)
        elif key not in (RANGE, SHARES):
            assert getattr(options, name) == value


@pytest.mark.parametrize("key", KEYS)
@given(data=st.data())
def test_a_value_and_its_text_and_its_json_are_the_same_option(key, data):
    value = data.draw(allowed_values(key))
    text = value if isinstance(value, str) else json.dumps(value)
    text = data.draw(padding) + data.draw(st.sampled_from([text, text.upper()] if value in (True, False) else [text]))
    as_text = from_text(key, text + data.draw(padding))
    options, refused = TwinFlowOptions.read({key: value})
    assert refused == {}
    assert TwinFlowOptions.read({key: as_text}) == (options, {})
    assert TwinFlowOptions.read(json.loads(json.dumps({key: value}))) == (options, {})


@given(st.sampled_from(KEYS), st.text(max_size=12))
@example(RANGE, "[NaN, 1]")
@example("twinflow_delta_t", "nan")
@example("twinflow_delta_t", "1_0e-2")
@example("twinflow_target_step_count", "2.5")
def test_any_text_is_one_of_its_keys_values_or_refused_as_it_was_written(key, text):
    value = from_text(key, text)
    if type(value) in (int, float):
        assert value == float(text) or math.isnan(value)
    else:
        assert type(value) is bool or value in (text, text.strip())
    _, refused = TwinFlowOptions.read({key: value}, {key: text})
    assert set(refused) == (set() if is_allowed(key, value) else {key})


@given(ratio=st.floats(0, 1, exclude_max=True))
def test_a_ratio_is_the_scale_that_it_stands_for(ratio):
    options = TwinFlowOptions(enhanced_ratio=ratio)
    assert options.scale >= 1
    assert math.isclose(1 - 1 / options.scale, options.ratio, abs_tol=1e-12)
