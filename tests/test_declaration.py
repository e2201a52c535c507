"""Settings are declared once: type, range and default checked whenever a set of them is made."""

from typing import Literal

import pytest

from simpletuner_twinflow.declaration import MAX_SHOWN, RefusedSettingsError, Settings, kind_of, limits, option, shown


class Tap(Settings):
    turns: int = option(2, "Turns", ge=0, le=5)
    """How far it is open,
    in quarters.
    """
    flow: float = option(0.5, "Flow", ge=0, lt=1, note=" (a share)")
    closed: bool = option(False, "Closed")
    water: Literal["warm", "cold"] = option("cold", "Water")
    """Which."""


REFUSED = [
    ("turns", True, "a whole number from 0 to 5"),
    ("turns", 2.0, "a whole number from 0 to 5"),
    ("turns", 6, "a whole number from 0 to 5"),
    ("turns", "2", "a whole number from 0 to 5"),
    ("turns", 10**400, "a whole number from 0 to 5"),
    ("flow", True, "0 to below 1 (a share)"),
    ("flow", 1, "0 to below 1 (a share)"),
    ("flow", float("nan"), "0 to below 1 (a share)"),
    ("flow", float("inf"), "0 to below 1 (a share)"),
    ("flow", 10**400, "0 to below 1 (a share)"),
    ("closed", 1, "true or false"),
    ("closed", "false", "true or false"),
    ("water", "hot", '"warm" or "cold"'),
    ("water", ["warm"], '"warm" or "cold"'),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_wrong_value_is_refused_by_name_with_what_is_allowed(name, value, allowed):
    with pytest.raises(RefusedSettingsError) as refusal:
        Tap(**{name: value})
    assert refusal.value.lines == {name: f"{name} is {shown(value)}; allowed: {allowed}."}


def test_every_wrong_value_is_refused_at_once_and_a_whole_number_is_a_float():
    with pytest.raises(RefusedSettingsError) as refusal:
        Tap(turns=-1, flow=2.0, water="cold")
    assert refusal.value.lines.keys() == {"turns", "flow"}
    assert Tap(flow=0).flow == 0.0


def test_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(RefusedSettingsError, match="taps is no setting; there are: turns, flow, closed, water"):
        Tap(taps=2)


def test_changed_settings_are_checked_anew_and_the_old_ones_stay():
    tap = Tap(turns=1)
    assert (tap.changed(turns=5).turns, tap.turns) == (5, 1)
    assert tap.changed() == tap
    with pytest.raises(RefusedSettingsError, match="turns is 9"):
        tap.changed(turns=9)
    with pytest.raises(Exception, match="frozen"):
        tap.turns = 3


def test_type_and_range_are_read_off_the_declaration():
    fields = Tap.model_fields
    assert [kind_of(field) for field in fields.values()] == [int, float, bool, str]
    assert [limits(field) for field in fields.values()] == [
        (0, 5, False),
        (0, 1, True),
        (None, None, False),
        (None, None, False),
    ]
    assert Tap.choices("water") == ("warm", "cold")
    assert Tap.info("flow").label == "Flow"


def test_help_is_the_docstring_below_a_declaration_in_one_line():
    assert [Tap.help(name) for name in Tap.model_fields] == ["How far it is open, in quarters.", "", "", "Which."]


def test_long_value_is_cut():
    assert len(shown("x" * 1000)) == MAX_SHOWN + len("...")
    assert "16610 bits" in shown(10**5000)
