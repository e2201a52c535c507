"""The sigmas that sampling visits and training aims at."""

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.schedule import JUMPS, SamplerSettings, trained_times


@pytest.mark.parametrize(
    ("steps", "sigmas"),
    [
        (1, [0.999, 0]),
        (2, [0.999, 0.6, 0]),
        (3, [0.999, 0.7495, 0.5, 0]),
        (4, [0.999, 0.8327, 0.6663, 0.5, 0]),
        (5, [0.999, 0.82425, 0.6495, 0.47475, 0.3, 0]),
        (8, [0.999, 0.8991, 0.7993, 0.6994, 0.5996, 0.4997, 0.3999, 0.3, 0]),
    ],
)
@pytest.mark.parametrize("share", [0.01, 1.0])
@pytest.mark.parametrize("style", ["few", "any"])
def test_the_automatic_schedules_with_fresh_noise_are_the_published_ones(steps, sigmas, style, share):
    assert SamplerSettings(style=style, stochastic_ratio=share).sigmas(steps) == pytest.approx(sigmas, abs=5e-5)


@pytest.mark.parametrize("style", ["few", "any"])
@pytest.mark.parametrize("steps", range(1, 9))
def test_the_automatic_schedules_without_are_karras_from_pure_noise_to_one_over_the_steps(steps, style):
    """Formula (5) of arXiv:2206.00364: the seventh roots lie evenly."""
    *sigmas, end = SamplerSettings(style=style).sigmas(steps)
    assert end == 0
    assert [sigmas[0], sigmas[-1]] == pytest.approx([1, 1 / steps])
    assert [sigma ** (1 / 7) for sigma in sigmas] == pytest.approx(torch.linspace(1, steps ** (-1 / 7), steps).tolist())


def test_automatic_sigmas_begin_where_sigma_max_says():
    assert SamplerSettings(sigma_max=0.8).sigmas(2) == pytest.approx([0.8, 0.4, 0.0])
    assert SamplerSettings(sigma_max=0.8, stochastic_ratio=1.0).sigmas(2) == pytest.approx([0.8, 0.6, 0.0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_sigmas_down_to_one_that_is_given_lie_evenly(share):
    assert SamplerSettings(sigma_min=0.4, sigma_max=1.0, stochastic_ratio=share).sigmas(3) == pytest.approx(
        [1, 0.7, 0.4, 0]
    )


def test_a_gap_of_zero_is_a_gap_of_zero_and_not_automatic():
    fresh = SamplerSettings(sigma_min=0.0, stochastic_ratio=1.0)
    assert fresh.sigmas(4) == pytest.approx([0.999, 0.74925, 0.4995, 0.24975, 0.0])
    assert SamplerSettings(sigma_min=0.0).sigmas(4) == (1.0, 0.75, 0.5, 0.25, 0.0)


def test_automatic_sigmas_of_multi_go_evenly_down_to_zero():
    assert SamplerSettings(style="multi").sigmas(4) == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_moves_every_sigma_by_its_formula(shift):
    expected = [shift * s / (1 + (shift - 1) * s) for s in SamplerSettings().sigmas(4)]
    assert SamplerSettings(shift=shift).sigmas(4) == pytest.approx(expected, rel=1e-12)


def test_no_shift_moves_pure_noise():
    for shift in (0.0965206411488151, *(number / 100 for number in range(1, 500))):
        first = SamplerSettings(shift=shift).sigmas(2)[0]
        assert 1 - 1e-15 < first <= 1


def test_the_target_times_are_those_of_the_style():
    few, any_step, multi = (SamplerSettings(style=style, sigma_min=0.5).steps(3) for style in ("few", "any", "multi"))
    assert [step.r for step in few] == [0, 0, 0]
    assert [step.r for step in any_step] == [step.t_next for step in any_step]
    assert [step.r for step in multi] == [step.t for step in multi]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_training_aims_at_the_times_that_sampling_visits(count, shift):
    settings = SamplerSettings(shift=shift)
    steps = settings.steps(count)
    assert settings.step_times(count) == tuple(step.t for step in steps)
    assert [step.t for step in steps[1:]] == [step.t_next for step in steps[:-1]]
    assert steps[-1].t_next == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"style": "mul"}, "style is 'mul'"),
        ({"stochastic_ratio": 1.1}, "stochastic_ratio is 1.1"),
        ({"stochastic_ratio": -0.1}, "stochastic_ratio is -0.1"),
        ({"stochastic_ratio": None}, "stochastic_ratio is None"),
        ({"sigma_max": 0.0}, "sigma_max is 0.0"),
        ({"sigma_max": 1.001}, "sigma_max is 1.001"),
        ({"sigma_min": 1.0}, "sigma_min is 1.0"),
        ({"sigma_min": 0.999, "stochastic_ratio": 1.0}, "sigma_min is 0.999"),
        ({"sigma_min": 0.5, "sigma_max": 0.5}, "sigma_min is 0.5"),
        ({"sigma_min": -0.1}, "sigma_min is -0.1"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"time_dtype": "int8"}, "time_dtype is 'int8'"),
        ({"time_unit": 100}, "time_unit is 100"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_sampled_with_is_refused_by_name(settings, words):
    with pytest.raises(TwinFlowConfigError, match=words):
        SamplerSettings(**settings)


def test_sigmas_that_would_not_fall_are_refused():
    with pytest.raises(TwinFlowConfigError, match="must fall: lower sigma_min or raise sigma_max"):
        SamplerSettings(sigma_max=0.55, stochastic_ratio=1.0).sigmas(2)  # the automatic last sigma is 0.6
    with pytest.raises(TwinFlowConfigError, match="must fall: sigma_min must be 0, or larger"):
        SamplerSettings(sigma_min=1e-20).sigmas(2)  # one number with 0, seen from 1


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(TwinFlowError, match="at least one step; got 0"):
        SamplerSettings().sigmas(0)


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", range(1, 9))
def test_sigmas_are_moved_to_the_nearest_that_a_networks_time_can_be_in_its_dtype(steps, dtype, unit):
    name = str(dtype).removeprefix("torch.")
    moved = SamplerSettings(time_dtype=name, time_unit=unit).sigmas(steps)
    times = torch.tensor([unit * sigma for sigma in moved], dtype=torch.float64)
    assert torch.equal(times, times.to(dtype).double())
    if unit == 1:
        assert torch.equal(1 - times, (1 - times).to(dtype).double())
    nearest = torch.finfo(dtype).eps / 2 * (1 if unit == 1 else 1000 / 512 / 2)
    assert moved == pytest.approx(SamplerSettings().sigmas(steps), abs=nearest)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_a_run_of_own_steps_trains_these_and_its_jumps_begin_where_it_begins(count):
    jumps, steps = trained_times(SamplerSettings().step_times, count, own_steps=True)
    assert jumps == (1.0,)
    assert [start for start, _ in steps] == list(SamplerSettings().step_times(count))
    assert [end for _, end in steps] == [*SamplerSettings().step_times(count)[1:], 0.0]


@pytest.mark.parametrize(("count", "more"), [(1, ()), (2, ()), (4, ()), (3, (1.0, 0.75, 0.5))])
def test_a_run_of_jumps_trains_the_times_of_one_two_and_four_steps_and_of_its_own_number(count, more):
    jumps, steps = trained_times(SamplerSettings(**JUMPS).step_times, count, own_steps=False)
    assert steps == ()
    even = (1.0, *(1.0, 0.6), *more, *(1.0, 5 / 6, 4 / 6, 0.5))
    assert jumps == pytest.approx(even)
