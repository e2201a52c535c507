"""Options that contradict each other are refused where TwinFlow trains, and only there."""

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions


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


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"twinflow_adversarial_enabled": False}, False),
        ({"twinflow_rectify_weight": 0.0}, False),
        ({"twinflow_role_shares": {"near": 1, "twin": 1}}, False),
        ({"twinflow_guidance_target": "both", "twinflow_rectify_weight": 0.0}, False),
        ({"twinflow_guidance_target": "velocity", "twinflow_rectify_weight": 0.0}, True),
        ({"twinflow_guidance_scale": 1.0, "twinflow_rectify_weight": 0.0}, True),
    ],
)
def test_guidance_in_rectify_needs_rectify(changes, accepted):
    given = {
        "twinflow_enabled": True,
        "twinflow_adversarial_enabled": True,
        "twinflow_guidance_target": "rectify",
    } | changes
    if accepted:
        assert TwinFlowOptions.from_mapping(given).enabled
        return
    with pytest.raises(TwinFlowConfigError, match=r'twinflow_guidance_target is "(rectify|both)" while .* "velocity"'):
        TwinFlowOptions.from_mapping(given)


@pytest.mark.parametrize(
    ("steps", "conditioning", "share", "accepted"),
    [
        (2, "training_only", 1, True),
        (1, "training_only", 1, False),
        (2, "signed_time", 1, False),
        (2, "none", 1, False),
        (1, "none", 0, True),
    ],
)
def test_rows_of_a_samplers_steps_need_several_steps_and_conditioning_in_training(steps, conditioning, share, accepted):
    values = {
        "twinflow_role_shares": {"near": 1, "sampler_step": share},
        "twinflow_target_step_count": steps,
        "twinflow_time_conditioning": conditioning,
    }
    TwinFlowOptions.from_mapping(values)  # nothing trains, so nothing contradicts
    trained = values | {"twinflow_enabled": True}
    if accepted:
        assert TwinFlowOptions.from_mapping(trained).role_shares
        return
    found = f'twinflow_target_step_count is {steps} and twinflow_time_conditioning "{conditioning}"'
    with pytest.raises(TwinFlowConfigError, match=f"gives sampler_step 1 while {found}.* share to one_step"):
        TwinFlowOptions.from_mapping(trained)
    TwinFlowOptions.from_mapping(trained | {"twinflow_implementation": "host"})
