"""The objective's settings: checked by name when they are made, and the shares of the roles."""

import pytest

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.method.settings import ObjectiveSettings
from tests.method.training_step import ANY, FULL, NEAR, ONE, STEP, TWIN


def test_shares_are_equal_but_near_rows_count_twice_with_guidance_and_there_is_no_twin_unless_adversarial():
    assert ObjectiveSettings(enhanced_ratio=0).roles() == dict.fromkeys((ONE, NEAR, ANY), 1 / 3)
    assert FULL.changed(guidance_target="rectify").roles() == dict.fromkeys((ONE, NEAR, ANY, TWIN), 1 / 4)
    assert ObjectiveSettings().roles() == {ONE: 1 / 4, NEAR: 1 / 2, ANY: 1 / 4}
    assert FULL.roles() == pytest.approx({ONE: 1 / 5, NEAR: 2 / 5, ANY: 1 / 5, TWIN: 1 / 5})


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_from_two_target_steps_on_the_samplers_steps_stand_in_place_of_one_step_which_rectify_keeps(steps):
    plain = {ONE: 0.0, STEP: 1 / 4, NEAR: 1 / 2, ANY: 1 / 4}
    assert ObjectiveSettings(target_step_count=steps).roles() == plain
    adversarial = {ONE: 1 / 6, STEP: 1 / 6, NEAR: 1 / 3, ANY: 1 / 6, TWIN: 1 / 6}
    assert FULL.changed(target_step_count=steps).roles() == pytest.approx(adversarial)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_without_own_steps_a_run_of_several_has_the_shares_of_one(ratio):
    one = ObjectiveSettings(enhanced_ratio=ratio)
    assert one.changed(target_step_count=4).roles(own_steps=False) == one.roles(own_steps=False) == one.roles()


@pytest.mark.parametrize("own_steps", [True, False])
def test_shares_that_are_set_are_the_runs(own_steps):
    settings = ObjectiveSettings(role_shares={NEAR: 1, ONE: 3})
    assert settings.roles(own_steps=own_steps) == {NEAR: 1.0, ONE: 3.0}


@pytest.mark.parametrize(
    ("given", "scale", "ratio"),
    [
        ({}, 2.0, 0.5),
        ({"enhanced_ratio": 0.75}, 4.0, 0.75),
        ({"enhanced_ratio": 0.0}, 1.0, 0.0),
        ({"guidance_scale": 1}, 1.0, 0.0),
        ({"guidance_scale": 4.0, "enhanced_ratio": 0.1}, 4.0, 0.75),
    ],
)
def test_ratio_is_one_less_the_inverse_of_the_scale_whichever_is_given(given, scale, ratio):
    settings = ObjectiveSettings(**given)
    assert (settings.scale, settings.ratio) == (scale, ratio)
    assert settings.guides("velocity") == (scale > 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("estimate_order", 0),
        ("enhanced_ratio", float("nan")),
        ("guidance_scale", 0.9),
        ("guidance_scale", float("inf")),
        ("guidance_reference", "teacher"),
        ("guidance_target", "rcgm"),
        ("enhanced_range", (0.6, 0.4)),
        ("enhanced_range", (-0.1, 0.4)),
        ("delta_t", 0.0),
        ("target_clamp", 0.0),
        ("adversarial_weight", -1.0),
        ("rectify_weight", float("nan")),
        ("loss", "huber"),
    ],
)
def test_an_option_that_cannot_be_trained_with_is_refused_by_name(name, value):
    with pytest.raises(TwinFlowConfigError, match=f"{name} is .*allowed"):
        ObjectiveSettings(**{name: value})
