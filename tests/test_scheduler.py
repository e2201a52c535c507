"""The few-step sampler by the contract of a diffusers scheduler; its values against the reference: test_reference."""

import copy
import inspect

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.levels import SamplerSettings
from simpletuner_twinflow.sampler import DerivedNoise, sample
from simpletuner_twinflow.scheduler import TwinFlowScheduler
from tests.oracles import GaussianFlow

FLOW = GaussianFlow(mean=0.4, std=0.5)


def run(scheduler, noise, steps, network=None, **step_arguments):
    """What a pipeline does: ask the network at each timestep, step, go on from what comes back."""
    scheduler.set_timesteps(steps)
    x = noise
    for timestep, r in zip(scheduler.timesteps, scheduler.target_times, strict=True):
        t = torch.full((len(x),), float(timestep) / 1000, dtype=torch.float64)
        velocity = (network or FLOW.average_velocity)(x, t, r.expand(len(x)).double()).to(x.dtype)
        x = scheduler.step(velocity, timestep, x, return_dict=False, **step_arguments)[0]
    return x


# The schedule


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


# The contract


def test_pipelines_find_what_they_look_for():
    scheduler = TwinFlowScheduler(num_train_timesteps=1000, prediction_type="flow_matching", shift=1.0)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.order == 1
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.config.base_image_seq_len == 256
    assert scheduler.config.max_image_seq_len == 4096
    assert scheduler.config.base_shift == 0.5
    assert scheduler.config.max_shift == 1.15
    assert scheduler.config.use_dynamic_shifting is False
    assert {"sigmas", "timesteps", "mu"} <= set(inspect.signature(scheduler.set_timesteps).parameters)
    assert "generator" in inspect.signature(scheduler.step).parameters
    x = torch.randn(2, 3)
    assert scheduler.scale_model_input(x, scheduler.timesteps[0]) is x
    assert scheduler.timesteps.dtype == scheduler.sigmas.dtype == torch.float32


def test_the_configuration_survives_saving_and_loading(tmp_path):
    settings = {"shift": 2.0, "style": "multi", "stochastic_ratio": 0.25, "extrapolation": 0.1, "seed": 5,
                "kumaraswamy": (1.17, 0.8, 1.1), "sigma_max": 0.99, "sigma_min": 0.0}  # fmt: skip
    scheduler = TwinFlowScheduler(**settings)
    scheduler.save_pretrained(tmp_path)
    for loaded in (TwinFlowScheduler.from_pretrained(tmp_path), TwinFlowScheduler.from_config(scheduler.config)):
        assert loaded.settings == scheduler.settings
        assert loaded.config.seed == 5


def test_it_can_take_over_from_a_stock_scheduler():
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0, base_shift=0.7, use_dynamic_shifting=True)
    ours = TwinFlowScheduler.from_config(stock.config)
    assert ours.shift == 3.0
    assert ours.config.base_shift == 0.7
    assert ours.config.use_dynamic_shifting is True
    ours.set_timesteps(2)  # the stock one would ask for mu


def test_image_to_image_begins_in_the_middle():
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    x, z = torch.full((1, 3), 0.4), torch.randn(1, 3)
    started = scheduler.scale_noise(x, scheduler.timesteps[2:3], z)
    torch.testing.assert_close(started, 0.6663333 * z + (1 - 0.6663333) * x)
    velocity = torch.randn(1, 3)
    stepped = scheduler.step(velocity, scheduler.timesteps[2], started).prev_sample
    torch.testing.assert_close(stepped, started - float(scheduler.sigmas[2] - scheduler.sigmas[3]) * velocity)
    assert scheduler.step_index == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_timestep_is_found_after_a_trip_through_the_models_dtype(dtype):
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(4)
    assert [scheduler.index_for_timestep(t.to(dtype)) for t in scheduler.timesteps] == [0, 1, 2, 3]


def test_a_timestep_off_the_schedule_is_refused():
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.step(torch.zeros(1, 1), 0, torch.zeros(1, 1))  # the place in place of the timestep


def test_a_step_beyond_the_end_is_refused():
    scheduler = TwinFlowScheduler()
    run(scheduler, torch.randn(1, 2), 2)
    with pytest.raises(TwinFlowError, match="call set_timesteps"):
        scheduler.step(torch.zeros(1, 2), scheduler.timesteps[-1], torch.zeros(1, 2))


# What comes out


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_perfect_any_step_network_lands_on_the_flow_map_in_any_number_of_steps(steps):
    noise = torch.randn(5, 3, dtype=torch.float64)
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0, sigma_max=1.0)
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(run(scheduler, noise, steps), FLOW.flow_map(noise, ones, 0 * ones), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_step_samples_of_a_perfect_network_are_distributed_like_the_data(steps):
    scheduler = TwinFlowScheduler(sigma_max=1.0)
    made = run(scheduler, torch.randn(20_000, 1), steps)
    assert made.mean() == pytest.approx(0.4, abs=0.02)
    assert made.std() == pytest.approx(0.5, abs=0.02)


def ode_error(steps, solver_order):
    """Distance from the flow map under a network that knows the velocity only."""
    noise, ones = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.ones(9, dtype=torch.float64)
    settings = SamplerSettings(style="multi", sigma_max=0.95, solver_order=solver_order)
    x = FLOW.flow_map(noise, ones, 0.95 * ones)
    made = sample(lambda x, t, r: FLOW.velocity(x, t), x, steps, settings)
    return (made - FLOW.flow_map(noise, ones, 0 * ones)).norm()


@pytest.mark.parametrize(("solver_order", "calls"), [(1, [64, 128, 256]), (2, [127, 255, 511])])
def test_the_solver_converges_and_second_order_does_so_faster(solver_order, calls):
    errors = [ode_error(count, solver_order) for count in calls]
    assert errors[0] / errors[1] == pytest.approx(2**solver_order, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2**solver_order, rel=0.2)


@pytest.mark.parametrize(("steps", "entries"), [(1, 1), (2, 1), (3, 3), (5, 5), (6, 5)])
def test_at_second_order_every_timestep_is_one_call_and_all_intervals_but_the_last_take_two(steps, entries):
    scheduler = TwinFlowScheduler(style="multi", solver_order=2)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == entries
    assert torch.equal(scheduler.timesteps[1::2], scheduler.timesteps[2::2])
    assert len(scheduler.step_times(steps)) == (entries + 1) // 2


def test_at_second_order_the_scheduler_and_the_loop_agree():
    noise = torch.randn(4, 3, dtype=torch.float64)
    settings = {"style": "multi", "solver_order": 2, "extrapolation": 0.2}
    expected = sample(FLOW.average_velocity, noise, 7, SamplerSettings(**settings))
    torch.testing.assert_close(run(TwinFlowScheduler(**settings), noise, 7), expected, rtol=0, atol=1e-5)


def test_a_run_begun_on_a_correction_passes_it_over():
    scheduler = TwinFlowScheduler(style="multi", solver_order=2)
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(1)
    x = torch.randn(2, 3)
    assert torch.equal(scheduler.step(torch.randn(2, 3), scheduler.timesteps[1], x).prev_sample, x)
    stepped = scheduler.step(torch.zeros(2, 3), scheduler.timesteps[2], x).prev_sample
    torch.testing.assert_close(stepped, x)  # no velocity, no movement


def test_the_last_step_returns_its_clean_estimate():
    scheduler = TwinFlowScheduler(extrapolation=0.5)
    x, velocity = torch.randn(2, 2, 3)
    output = scheduler.step(velocity, scheduler.timesteps[0], x)
    torch.testing.assert_close(output.prev_sample, x - 0.999 * velocity)
    assert torch.equal(output.pred_original_sample, output.prev_sample)


def test_the_output_has_the_samples_dtype_while_the_state_does_not_lose_digits():
    noise = torch.randn(64, 16, dtype=torch.float64).bfloat16()
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0)
    # A network that never moves the sample: rounding at each of 50 steps would.
    steps = run(scheduler, noise, 50, network=lambda x, t, r: torch.full_like(x, 1 / 3))
    assert steps.dtype == torch.bfloat16
    third = float(torch.tensor(1 / 3).bfloat16())
    assert torch.equal(steps, (noise.double() - 0.999 * third).bfloat16())


def test_a_sample_that_the_pipeline_has_changed_is_taken_as_changed():
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0)
    scheduler.set_timesteps(2)
    x = scheduler.step(torch.zeros(1, 4), scheduler.timesteps[0], torch.randn(1, 4)).prev_sample
    x[:, 0] = 5.0  # in place, as an inpainting callback does
    stepped = scheduler.step(torch.zeros(1, 4), scheduler.timesteps[1], x).prev_sample
    torch.testing.assert_close(stepped, x)


# Random numbers


def test_without_a_generator_the_result_follows_from_the_start_noise_alone():
    noise, other = torch.randn(2, 3, 4)
    first = run(TwinFlowScheduler(), noise, 4)
    torch.manual_seed(99)
    assert torch.equal(run(TwinFlowScheduler(), noise, 4), first)
    assert not torch.isclose(run(TwinFlowScheduler(), other, 4), first).any()
    assert not torch.equal(run(TwinFlowScheduler(seed=1), noise, 4), first)
    scheduler = TwinFlowScheduler()
    assert torch.equal(run(scheduler, noise, 4), run(scheduler, noise, 4))


def test_without_a_generator_a_sample_does_not_depend_on_its_batch():
    noise = torch.randn(3, 4)
    batched = run(TwinFlowScheduler(), noise, 4)
    for row in range(3):
        torch.testing.assert_close(run(TwinFlowScheduler(), noise[row : row + 1], 4), batched[row : row + 1])


def test_the_noise_drawn_is_fresh_from_step_to_step_and_from_sample_to_sample():
    start = torch.randn(2, 20_000)
    derived = DerivedNoise(start)
    drawn = torch.cat([start, derived(start), derived(start)])
    torch.testing.assert_close(torch.corrcoef(drawn), torch.eye(6), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(dim=1), torch.ones(6), rtol=0, atol=0.03)


@pytest.mark.parametrize("given", [False, True], ids=["no generator", "generator"])
def test_sampling_leaves_the_global_random_stream_alone(given):
    noise, before = torch.randn(2, 3), torch.get_rng_state()
    run(TwinFlowScheduler(), noise, 4, generator=torch.Generator().manual_seed(1) if given else None)
    sample(FLOW.average_velocity, noise, 4, SamplerSettings())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_reproduces_and_the_last_step_draws_nothing_from_it():
    noise = torch.randn(2, 3)

    def seeded():
        return torch.Generator().manual_seed(7)

    assert torch.equal(
        run(TwinFlowScheduler(), noise, 3, generator=seeded()), run(TwinFlowScheduler(), noise, 3, generator=seeded())
    )
    assert not torch.equal(run(TwinFlowScheduler(), noise, 3, generator=seeded()), run(TwinFlowScheduler(), noise, 3))
    generator, twin = seeded(), seeded()
    run(TwinFlowScheduler(), noise, 3, generator=generator)
    for _ in range(2):
        torch.randn(2, 3, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("container", [list, tuple])
def test_one_generator_for_each_sample_gives_each_sample_its_own_result(container):
    noise = torch.randn(3, 4)
    generators = container(torch.Generator().manual_seed(seed) for seed in range(3))
    batched = run(TwinFlowScheduler(), noise, 4, generator=generators)
    for row in range(3):
        alone = run(TwinFlowScheduler(), noise[row : row + 1], 4, generator=torch.Generator().manual_seed(row))
        torch.testing.assert_close(alone, batched[row : row + 1])


def test_a_wrong_number_of_generators_is_refused():
    with pytest.raises(TwinFlowError, match="2 generators for 3 samples"):
        run(TwinFlowScheduler(), torch.randn(3, 4), 2, generator=[torch.Generator()] * 2)


def test_a_copy_made_in_the_middle_of_a_run_goes_on_like_the_original():
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(4)
    x = scheduler.step(torch.zeros(2, 3), scheduler.timesteps[0], torch.randn(2, 3)).prev_sample
    copied = copy.deepcopy(scheduler)
    ours, theirs = (each.step(x, scheduler.timesteps[1], x).prev_sample for each in (scheduler, copied))
    assert torch.equal(ours, theirs)


# What is refused


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
