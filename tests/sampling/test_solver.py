"""What sampling makes, and of which random numbers; its values against the reference are in test_reference."""

import copy

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import DerivedNoise, sample
from tests.cli.pipeline import FLOW, run


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


def test_a_run_remembers_nothing_of_the_run_before():
    scheduler = TwinFlowScheduler(style="multi", extrapolation=0.3)
    noise = torch.randn(2, 3)
    first = run(scheduler, noise, 5)
    run(scheduler, torch.randn(2, 3), 5)
    assert torch.equal(run(scheduler, noise, 5), first)


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


def test_without_a_generator_the_result_follows_from_the_start_noise_alone():
    noise, other = torch.randn(2, 3, 4)
    first = run(TwinFlowScheduler(), noise, 4)
    torch.manual_seed(99)
    assert torch.equal(run(TwinFlowScheduler(), noise, 4), first)
    assert not torch.isclose(run(TwinFlowScheduler(), other, 4), first).any()
    assert not torch.equal(run(TwinFlowScheduler(seed=1), noise, 4), first)
    scheduler = TwinFlowScheduler()
    assert torch.equal(run(scheduler, noise, 4), run(scheduler, noise, 4))


def test_without_a_generator_the_noise_is_that_of_the_start_noise():
    noise = torch.randn(2, 3)
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(2)
    velocity = torch.randn(2, 3)
    stepped = scheduler.step(velocity, scheduler.timesteps[0], noise).prev_sample
    fresh = (stepped - 0.4 * (noise - 0.999 * velocity)) / 0.6
    torch.testing.assert_close(fresh, DerivedNoise(noise)(noise), rtol=0, atol=1e-5)


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


def test_the_plain_loop_does_not_lose_digits_between_its_steps_either():
    noise, third = torch.randn(64, 16).bfloat16(), float(torch.tensor(1 / 3).bfloat16())
    settings = SamplerSettings(style="any", stochastic_ratio=0.0)
    made = sample(lambda x, t, r: torch.full_like(x, 1 / 3), noise, 50, settings)
    assert torch.equal(made, (noise.double() - 0.999 * third).bfloat16())
