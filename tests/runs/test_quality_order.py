"""Few-step quality in whole runs of the installed host orders what is known, and sees damage done on purpose."""

import pytest

from tests.runs.quality_recipes import SEEDS


@pytest.mark.host_runs("sd3_in_order")
@pytest.mark.parametrize("seed", SEEDS)
def test_base_plain_half_trained_and_trained_come_in_this_order(seed, runs):
    found = runs["sd3_in_order"][seed]
    assert found["base"] > found["plain"] > found["half"] > found["trained"], found


@pytest.mark.order
@pytest.mark.host_runs("sd1x_in_order")
def test_epsilon_model_comes_in_order_too(runs):
    """Its base has learnt a little and differs from run to run, so the whole order holds in the mean of seeds alone."""
    found = [runs["sd1x_in_order"][seed] for seed in SEEDS]
    mean = {kind: sum(each[kind] for each in found) / len(found) for kind in found[0]}
    assert all(each["trained"] < 0.7 * each["base"] for each in found), found
    if len(found) > 2:
        assert mean["base"] > max(mean["plain"], mean["half"]), mean
        assert mean["trained"] < min(mean["plain"], mean["half"]), mean


@pytest.mark.host_runs("damaged_samples")
def test_blur_noise_and_missing_prompts_are_each_seen(runs):
    far = {event["name"]: event["far"] for event in runs["damaged_samples"].check().of("damage")}
    frechet = {event["name"]: event["frechet"] for event in runs["damaged_samples"].of("damage")}
    assert far["none"] < 3, far
    assert all(frechet[name] > 1.5 * frechet["none"] for name in far if name != "none"), frechet
    assert all(far[name] > 3 for name in ("blurred", "noisy", "without_two_prompts")), far
