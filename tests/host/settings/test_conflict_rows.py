"""How a host's value is read: its ways to say "off", and its numbers."""

import pytest

from simpletuner_twinflow.host.settings.conflict_rows import as_number, is_positive, is_set


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", "none", "None", " false ", "no", "off", "n", "0"])
def test_ways_to_say_off(value):
    assert not is_set(value)


@pytest.mark.parametrize("value", [True, 1, "true", "lcm", {"a": 1}, [0]])
def test_everything_else_is_set(value):
    assert is_set(value)


@pytest.mark.parametrize(
    ("value", "number"), [("2.5", 2.5), (3, 3.0), (None, None), ("big", None), ([1], None), (10**400, None)]
)
def test_numbers_are_read_and_anything_else_is_none(value, number):
    assert as_number(value) == number
    assert is_positive(value) == (number is not None)
