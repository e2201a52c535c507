"""Laws of the schedule for any settings and any number of steps, drawn by hypothesis."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.sampling.schedule import TIME_DTYPES, SamplerSettings, trained_times
from simpletuner_twinflow.sampling.solver import sample

counts = st.integers(1, 64)
shifts = st.floats(0.05, 20)
styles = st.sampled_from(["few", "any", "multi"])
highest = st.none() | st.floats(0.01, 1)
shares = st.just(0.0) | st.floats(0, 1)


@st.composite
def any_settings(draw):
    """Any settings that are allowed one by one."""
    first = SamplerSettings(stochastic_ratio=(share := draw(shares)), sigma_max=draw(highest))
    return SamplerSettings(
        style=draw(styles),
        stochastic_ratio=share,
        sigma_max=first.sigma_max,
        sigma_min=draw(st.none() | st.floats(0, first.first_sigma, exclude_max=True)),
        shift=draw(shifts),
        time_dtype=draw(st.sampled_from(TIME_DTYPES)),
        time_unit=draw(st.sampled_from([1, 1000])),
    )


@given(any_settings(), counts)
def test_times_fall_from_the_first_to_zero_or_are_refused(settings, count):
    try:
        steps = settings.steps(count)
    except TwinFlowConfigError as refusal:
        assert "must fall" in str(refusal)  # noqa: PT017
        return
    assert len(steps) == count
    first = settings.first_sigma
    shifted = settings.shift * first / (1 + (settings.shift - 1) * first)
    # Half a unit in the last place of bfloat16's 8 digits, absolute for a time from 0 to 1.
    rounding = {"float32": 1e-12, "float16": 2**-11, "bfloat16": 2**-8}[settings.time_dtype]
    assert steps[0].t == pytest.approx(shifted, abs=rounding)
    assert steps[-1].t_next == 0
    assert all(before.t_next == after.t for before, after in pairwise(steps))
    for step in steps:
        assert 1 >= step.t > step.t_next >= 0
        assert step.r == {"few": 0, "any": step.t_next, "multi": step.t}[settings.style]
    assert settings.step_times(count) == tuple(step.t for step in steps)


@given(counts, shifts, highest, styles)
def test_automatic_times_without_fresh_noise_are_never_refused(count, shift, sigma_max, style):
    settings = SamplerSettings(style=style, shift=shift, sigma_max=sigma_max)
    sigmas = settings.sigmas(count)
    unshifted = [sigma / (shift - (shift - 1) * sigma) for sigma in sigmas]
    first = settings.first_sigma
    assert unshifted[-2] == pytest.approx(first / count)
    spacing = [sigma if style == "multi" else sigma ** (1 / 7) for sigma in unshifted[:-1]]
    gaps = [before - after for before, after in pairwise(spacing)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps)) if gaps else count == 1


@given(counts, shifts, st.floats(0.01, 1), st.just(0.0) | st.floats(1e-6, 0.99))
def test_times_down_to_one_that_is_given_lie_evenly_and_reach_it(count, shift, sigma_max, part):
    low = part * sigma_max
    sigmas = SamplerSettings(sigma_max=sigma_max, sigma_min=low, shift=shift).sigmas(count)
    unshifted = [sigma / (shift - (shift - 1) * sigma) for sigma in sigmas]
    reached = unshifted if low == 0 else unshifted[:-1]
    assert reached[-1] == pytest.approx(low if count > 1 or low == 0 else sigma_max, abs=1e-12)
    gaps = [before - after for before, after in pairwise(reached)]
    assert gaps == pytest.approx([(sigma_max - low) / max(len(reached) - 1, 1)] * len(gaps), abs=1e-9)


@given(counts, shifts)
def test_own_steps_follow_one_another_from_the_first_time_to_zero(count, shift):
    times = SamplerSettings(shift=shift).step_times
    jumps, steps = trained_times(times, count, own_steps=True)
    assert jumps == (steps[0][0],) == (times(count)[0],)
    assert steps[-1][1] == 0
    assert [end for _, end in steps[:-1]] == [start for start, _ in steps[1:]] == list(times(count)[1:])
    jumps, steps = trained_times(times, count, own_steps=False)
    assert steps == ()
    assert set(jumps) == {time for number in (1, 2, 4, count) for time in times(number)}


@given(any_settings(), st.integers(1, 12), st.integers(0, 2**32))
def test_a_network_that_knows_the_data_draws_it_by_any_settings_and_keeps_to_the_path_without_fresh_noise(
    settings, count, seed
):
    generator = torch.Generator().manual_seed(seed)
    x, start = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    points = []

    def predict(x_t, t, r):
        points.append((x_t, t[:, None]))
        return (x_t - x) / t[:, None]

    try:
        drawn = sample(predict, start, count, settings)
    except TwinFlowConfigError:
        return  # seen above
    torch.testing.assert_close(drawn, x, rtol=0, atol=1e-9)
    assert len(points) == count
    if settings.stochastic_ratio == 0:
        first = points[0][1]
        for x_t, t in points:
            torch.testing.assert_close(x_t, x + t / first * (start - x), rtol=0, atol=1e-9)
