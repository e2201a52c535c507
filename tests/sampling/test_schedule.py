"""The levels that sampling visits and training aims at."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps
from simpletuner_twinflow.sampling.data_ward import DataWardTwinFlowScheduler

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import SamplerSettings


@pytest.mark.parametrize(
    ("steps", "sigmas"),
    [
        (1, [0.999, 0]),
        (2, [0.999, 0.6, 0]),
        (3, [0.999, 0.7495, 0.5, 0]),
        (4, [0.999, 0.8327, 0.6663, 0.5, 0]),
        (8, [0.999, 0.8991, 0.7993, 0.6994, 0.5996, 0.4997, 0.3999, 0.3, 0]),
    ],
)
@pytest.mark.parametrize("style", ["few", "any"])
def test_the_automatic_schedules_are_the_published_ones(steps, sigmas, style):
    scheduler = TwinFlowScheduler(style=style)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(sigmas), rtol=0, atol=5e-5)
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == steps


def test_a_gap_of_zero_is_a_gap_of_zero_and_not_automatic():
    scheduler = TwinFlowScheduler(sigma_min=0.0)
    scheduler.set_timesteps(4)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([0.999, 0.74925, 0.4995, 0.24975, 0.0]))
    whole = TwinFlowScheduler(sigma_min=0.0, sigma_max=1.0)
    whole.set_timesteps(4)
    assert whole.sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert TwinFlowScheduler(stochastic_ratio=0.0).settings.fresh_share == 0
    assert TwinFlowScheduler().settings.fresh_share == 1


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_moves_every_level_by_its_formula(shift):
    plain, shifted = TwinFlowScheduler(), TwinFlowScheduler(shift=shift)
    later = TwinFlowScheduler()
    later.set_shift(shift)
    for scheduler in (plain, shifted, later):
        scheduler.set_timesteps(4)
    s = plain.sigmas.double()
    torch.testing.assert_close(shifted.sigmas, (shift * s / (1 + (shift - 1) * s)).float())
    assert torch.equal(later.sigmas, shifted.sigmas)
    torch.testing.assert_close(shifted.timesteps, shifted.sigmas[:-1] * 1000)


def test_kumaraswamy_spacing_crowds_the_levels():
    even, crowded = (
        SamplerSettings(style="multi", kumaraswamy=numbers).levels(8) for numbers in ((1, 1, 1), (2, 1, 1))
    )
    assert crowded[0] > even[0]  # (1 - sigma)^2 at each even place
    assert crowded[1:-1] == pytest.approx([1 - (1 - level) ** 2 for level in even[1:-1]])


def test_the_target_times_are_those_of_the_style():
    few, any_step, multi = (TwinFlowScheduler(style=style, sigma_min=0.5) for style in ("few", "any", "multi"))
    for scheduler in (few, any_step, multi):
        scheduler.set_timesteps(3)
    assert few.target_times.tolist() == [0, 0, 0]
    assert torch.equal(any_step.target_times, any_step.sigmas[1:])
    assert torch.equal(multi.target_times, multi.sigmas[:-1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_training_aims_at_the_times_that_sampling_visits(steps, shift):
    scheduler = TwinFlowScheduler(shift=shift)
    aims = scheduler.step_times(steps)
    scheduler.set_timesteps(steps)
    assert torch.equal(torch.tensor(aims), scheduler.sigmas[:-1])
    if shift == 1.0:
        assert aims[0] == 0.999


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 4},
        {"sigmas": torch.linspace(1, 0, 5)[:-1]},
        {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 1.15},
        {"timesteps": [999, 500, 250, 1]},
        {"num_inference_steps": 4, "sigmas": [0.9, 0.8, 0.7, 0.6]},
        {"num_inference_steps": 4, "mu": None},
        {"num_inference_steps": 4, "shift": 2.7},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_of_what_a_pipeline_passes_only_the_number_of_steps_counts(arguments):
    scheduler, plain = TwinFlowScheduler(), TwinFlowScheduler()
    scheduler.set_timesteps(**arguments, device="cpu")
    plain.set_timesteps(4)
    assert torch.equal(scheduler.sigmas, plain.sigmas)


@pytest.mark.parametrize(
    "arguments", [{"num_inference_steps": 3}, {"sigmas": [1.0, 0.5]}, {"timesteps": [999, 500]}], ids=str
)
def test_diffusers_own_helper_gets_its_timesteps(arguments):
    scheduler = TwinFlowScheduler()
    given = {"num_inference_steps": None, **arguments}
    timesteps, steps = retrieve_timesteps(scheduler, device="cpu", mu=0.7, **given)
    assert torch.equal(timesteps, scheduler.timesteps)
    assert steps == len(timesteps)


@pytest.mark.parametrize("arguments", [{}, {"num_inference_steps": 2, "sigmas": [1.0]}, {"num_inference_steps": 0}])
def test_a_number_of_steps_that_is_missing_contradictory_or_zero_is_refused(arguments):
    with pytest.raises(TwinFlowError, match="step"):
        TwinFlowScheduler().set_timesteps(**arguments)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type is 'epsilon'"),
        ({"style": "mul"}, "style is 'mul'"),
        ({"stochastic_ratio": 1.1}, "stochastic_ratio is 1.1"),
        ({"extrapolation": -0.1}, "extrapolation"),
        ({"solver_order": 3}, "solver_order is 3"),
        ({"kumaraswamy": (1.0, 0.0, 1.0)}, "kumaraswamy"),
        ({"sigma_max": 0.0}, "sigma_max is 0.0"),
        ({"sigma_min": 0.999}, "sigma_min is 0.999"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"solver_order": 2, "stochastic_ratio": 0.5}, "fresh noise breaks it"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_sampled_with_is_refused_by_name(settings, words):
    with pytest.raises(TwinFlowConfigError, match=words):
        TwinFlowScheduler(**settings)


def test_levels_that_would_not_fall_are_refused():
    with pytest.raises(TwinFlowConfigError, match="must fall"):
        TwinFlowScheduler(sigma_max=0.55).set_timesteps(2)  # the automatic last level is 0.6


def test_second_order_from_pure_noise_is_refused():
    with pytest.raises(TwinFlowConfigError, match="sigma_max below 1"):
        TwinFlowScheduler(style="multi", solver_order=2, sigma_max=1.0).set_timesteps(3)


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", range(1, 9))
def test_levels_are_moved_to_the_nearest_that_a_network_can_be_told_in_its_dtype(steps, dtype, unit):
    plain = SamplerSettings().levels(steps)
    name = str(dtype).removeprefix("torch.")
    moved = SamplerSettings(time_dtype=name, time_unit=unit).levels(steps)
    told = torch.tensor([unit * level for level in moved], dtype=torch.float64)
    assert torch.equal(told, told.to(dtype).double())
    if unit == 1:
        assert torch.equal(1 - told, (1 - told).to(dtype).double())
    nearest = torch.finfo(dtype).eps / 2 * (1 if unit == 1 else 1000 / 512 / 2)
    assert moved == pytest.approx(plain, abs=nearest)


@pytest.mark.parametrize("setting", [{"time_dtype": "int8"}, {"time_unit": 100}])
def test_unknown_dtype_or_unit_of_time_is_refused(setting):
    with pytest.raises(TwinFlowConfigError, match=next(iter(setting))):
        SamplerSettings(**setting)


@pytest.mark.parametrize("kind", [TwinFlowScheduler, DataWardTwinFlowScheduler])
def test_timesteps_are_counted_in_the_models_own_number_of_them(kind):
    scheduler = kind(num_train_timesteps=500)
    scheduler.set_timesteps(2)
    expected = [0.999 * 500, 0.6 * 500] if kind is TwinFlowScheduler else [0.001, 0.4]
    assert scheduler.timesteps.tolist() == pytest.approx(expected, abs=1e-6)
    assert scheduler.sigmas.tolist() == pytest.approx([0.999, 0.6, 0.0])
    assert scheduler.index_for_timestep(expected[1]) == 1


def test_at_second_order_both_calls_of_an_interval_are_given_the_target_of_their_own_level():
    calls = SamplerSettings(style="any", solver_order=2).calls(5)
    found = [(call.t, call.r, call.end) for call in calls]
    high, middle, low = 0.999, 0.7495, 0.5
    expected = [(high, middle, middle), (middle, low, middle), (middle, low, low), (low, 0, low), (low, 0, 0)]
    assert [pytest.approx(call) for call in expected] == found
    assert [call.corrects for call in calls] == [False, True, False, True, False]


def test_automatic_noise_is_all_fresh_for_few_steps_of_first_order_only():
    shares = {
        (style, order): SamplerSettings(style=style, solver_order=order).fresh_share
        for style in ("few", "any", "multi")
        for order in (1, 2)
    }
    assert {key for key, share in shares.items() if share == 1} == {("few", 1)}
    assert set(shares.values()) == {0, 1}
