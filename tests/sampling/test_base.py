"""What holds for every few-step scheduler: of a flow, of one with inverted sigmas, and of epsilon and v models."""

import copy
from functools import partial

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

from simpletuner_twinflow import TwinFlowDiffusionScheduler, TwinFlowScheduler
from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from tests.sampling.diffusion_oracles import SDXL

KINDS = {
    "flow": TwinFlowScheduler,
    "inverted": partial(TwinFlowScheduler, invert_sigmas=True, num_train_timesteps=1),
    "epsilon": partial(TwinFlowDiffusionScheduler, **SDXL),
    "v": partial(TwinFlowDiffusionScheduler, **SDXL, prediction_type="v_prediction"),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def run(scheduler, noise, steps, generator=None):
    """A pipeline's loop around an arbitrary network."""
    scheduler.set_timesteps(steps)
    x, times = noise, scheduler.timesteps / scheduler.config.num_train_timesteps
    for timestep, time in zip(scheduler.timesteps, times, strict=True):
        output = torch.tanh(x) / 2 + 0.1 * time.to(x.dtype)
        x = scheduler.step(output, timestep, x, generator=generator, return_dict=False)[0]
    return x


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "share"), [("flow", 0.0), ("inverted", 0.0), ("epsilon", 1.0), ("v", 1.0)])
def test_a_flow_is_drawn_without_fresh_noise_and_a_diffusion_model_with(kind, share):
    """The settings' own defaults, but for what an epsilon or v model's stock counterpart does: it draws noise."""
    assert KINDS[kind]().settings == SamplerSettings(stochastic_ratio=share)
    assert KINDS[kind]().config.seed == 0
    for style in ("any", "multi"):
        assert KINDS[kind](style=style).settings == SamplerSettings(style=style, stochastic_ratio=0.0)


@every_kind
def test_sigmas_and_target_times_are_those_of_the_settings(make):
    for style in ("few", "any", "multi"):
        scheduler = make(style=style)
        scheduler.set_timesteps(3)
        steps = scheduler.settings.steps(3)
        assert scheduler.flow_sigmas.tolist() == pytest.approx([*(step.t for step in steps), 0], abs=1e-6)
        assert scheduler.target_times.tolist() == pytest.approx([step.r for step in steps], abs=1e-6)
        assert scheduler.step_times(3) == tuple(step.t for step in steps)
        assert len(scheduler.timesteps) == scheduler.num_inference_steps == 3


@every_kind
def test_pipelines_find_what_they_look_for(make):
    scheduler, x = make(), torch.randn(2, 3)
    assert scheduler.order == 1
    assert scheduler.timesteps.dtype == scheduler.flow_sigmas.dtype == torch.float32
    assert scheduler.scale_model_input(x, scheduler.timesteps[0]) is x
    assert len(scheduler) == scheduler.config.num_train_timesteps
    assert scheduler.step_index is scheduler.begin_index is None
    run(scheduler, x, 4)
    assert scheduler.step_index == 4


@every_kind
@pytest.mark.parametrize(
    "arguments",
    [
        {"sigmas": torch.linspace(1, 0, 5)[:-1]},
        {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 1.15},
        {"timesteps": [999, 500, 250, 1]},
        {"num_inference_steps": 4, "sigmas": [0.9, 0.8, 0.7, 0.6]},
        {"num_inference_steps": 4, "mu": None},
        {"num_inference_steps": 4, "shift": 2.7},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_of_what_a_pipeline_passes_only_the_number_of_steps_counts(make, arguments):
    scheduler, plain = make(), make()
    scheduler.set_timesteps(**arguments, device="cpu")
    plain.set_timesteps(4)
    assert torch.equal(scheduler.timesteps, plain.timesteps)
    assert torch.equal(scheduler.flow_sigmas, plain.flow_sigmas)


@every_kind
@pytest.mark.parametrize(
    "arguments", [{"num_inference_steps": 3}, {"sigmas": [1.0, 0.5]}, {"timesteps": [999, 500]}], ids=str
)
def test_diffusers_own_helper_gets_its_timesteps(make, arguments):
    scheduler = make()
    timesteps, steps = retrieve_timesteps(scheduler, device="cpu", mu=0.7, **{"num_inference_steps": None, **arguments})
    assert torch.equal(timesteps, scheduler.timesteps)
    assert steps == len(timesteps)


@every_kind
@pytest.mark.parametrize("arguments", [{}, {"num_inference_steps": 2, "sigmas": [1.0]}, {"num_inference_steps": 0}])
def test_a_number_of_steps_that_is_missing_contradictory_or_zero_is_refused(make, arguments):
    with pytest.raises(TwinFlowError, match="step"):
        make().set_timesteps(**arguments)


@every_kind
def test_a_setting_out_of_its_range_is_refused_by_name(make):
    with pytest.raises(TwinFlowConfigError, match="style is 'mul'"):
        make(style="mul")


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_timestep_is_found_after_a_trip_through_the_models_dtype(make, dtype):
    scheduler = make()
    scheduler.set_timesteps(4)
    assert [scheduler.index_for_timestep(t.to(dtype)) for t in scheduler.timesteps] == [0, 1, 2, 3]


@every_kind
def test_a_timestep_further_off_the_schedule_than_rounding_is_refused(make):
    scheduler, x = make(), torch.zeros(1, 1)
    scheduler.set_timesteps(2)
    step = 0.001 * scheduler.config.num_train_timesteps
    assert scheduler.index_for_timestep(scheduler.timesteps[1] + 3.5 * step) == 1
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.index_for_timestep(scheduler.timesteps[1] + 6 * step)
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.step(x, scheduler.timesteps[1] + 50 * step, x)


@every_kind
def test_a_step_beyond_the_end_is_refused(make):
    scheduler, x = make(), torch.randn(1, 2)
    run(scheduler, x, 2)
    with pytest.raises(TwinFlowError, match="All 2 steps have been made: call set_timesteps"):
        scheduler.step(x, scheduler.timesteps[-1], x)


@every_kind
def test_new_run_begins_at_the_first_step_whatever_the_last_one_did(make):
    scheduler = make()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)  # as image-to-image does
    scheduler.set_timesteps(4)
    assert scheduler.begin_index is scheduler.step_index is None
    fresh, noise = make(), torch.randn(2, 3)
    torch.testing.assert_close(run(scheduler, noise, 4), run(fresh, noise, 4))


@every_kind
@pytest.mark.parametrize("in_place", [False, True])
def test_a_sample_that_the_pipeline_has_changed_is_taken_as_changed(make, in_place):
    scheduler, again, x = make(stochastic_ratio=0.0), make(stochastic_ratio=0.0), torch.randn(2, 4)
    for each in (scheduler, again):
        each.set_timesteps(2)
    again.set_begin_index(1)
    x = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
    changed = x if in_place else x.clone()
    changed[:, 0] = 5.0  # as an inpainting callback does
    expected = again.step(changed, again.timesteps[1], changed.clone()).prev_sample
    found = scheduler.step(changed, scheduler.timesteps[1], changed).prev_sample
    torch.testing.assert_close(found, expected)


@every_kind
def test_without_a_generator_the_result_follows_from_the_start_noise_alone(make):
    noise, other = torch.randn(2, 3, 4)
    make = partial(make, stochastic_ratio=1.0)
    first = run(make(), noise, 4)
    torch.manual_seed(99)
    scheduler = make()
    for _ in range(2):  # a run remembers nothing of the run before
        assert torch.equal(run(scheduler, noise, 4), first)
    assert not torch.isclose(run(make(), other, 4), first).any()
    assert not torch.isclose(run(make(seed=1), noise, 4), first).any()
    assert torch.equal(run(make(stochastic_ratio=0.0, seed=1), noise, 4), run(make(stochastic_ratio=0.0), noise, 4))
    for row in range(3):
        torch.testing.assert_close(run(make(), noise[row : row + 1], 4), first[row : row + 1])


@every_kind
def test_a_generator_reproduces_and_the_last_step_draws_nothing_from_it(make):
    make, noise = partial(make, stochastic_ratio=1.0), torch.randn(2, 3)
    generator, twin = seeded(), seeded()
    first = run(make(), noise, 3, generator=generator)
    assert torch.equal(run(make(), noise, 3, generator=seeded()), first)
    assert not torch.equal(run(make(), noise, 3), first)
    for _ in range(2):
        torch.randn(2, 3, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


@every_kind
@pytest.mark.parametrize("container", [list, tuple])
def test_one_generator_for_each_sample_gives_each_sample_its_own_result(make, container):
    make, noise = partial(make, stochastic_ratio=1.0), torch.randn(3, 4)
    batched = run(make(), noise, 4, generator=container(seeded(seed) for seed in range(3)))
    for row in range(3):
        alone = run(make(), noise[row : row + 1], 4, generator=seeded(row))
        torch.testing.assert_close(alone, batched[row : row + 1])


@every_kind
def test_a_wrong_number_of_generators_is_refused(make):
    with pytest.raises(TwinFlowError, match="2 generators for 3 samples"):
        run(make(stochastic_ratio=1.0), torch.randn(3, 4), 2, generator=[torch.Generator()] * 2)


@every_kind
@pytest.mark.parametrize("given", [False, True], ids=["no generator", "generator"])
def test_sampling_leaves_the_global_random_stream_alone(make, given):
    noise, before = torch.randn(2, 3), torch.get_rng_state()
    run(make(stochastic_ratio=1.0), noise, 4, generator=seeded() if given else None)
    assert torch.equal(torch.get_rng_state(), before)


@every_kind
def test_without_fresh_noise_nothing_is_drawn_from_the_generator(make):
    noise, generator = torch.randn(2, 3), seeded()
    drawn = run(make(stochastic_ratio=0.0), noise, 4, generator=generator)
    assert torch.equal(drawn, run(make(stochastic_ratio=0.0), noise, 4))
    assert torch.equal(generator.get_state(), seeded().get_state())


@every_kind
def test_a_copy_made_in_the_middle_of_a_run_goes_on_like_the_original(make):
    scheduler = make(stochastic_ratio=1.0)
    scheduler.set_timesteps(4)
    x = scheduler.step(torch.zeros(2, 3), scheduler.timesteps[0], torch.randn(2, 3)).prev_sample
    copied = copy.deepcopy(scheduler)
    ours, theirs = (each.step(x, scheduler.timesteps[1], x).prev_sample for each in (scheduler, copied))
    assert torch.equal(ours, theirs)


@every_kind
def test_the_configuration_survives_saving_and_loading(make, tmp_path):
    scheduler = make(style="multi", stochastic_ratio=0.25, seed=5)
    scheduler.save_pretrained(tmp_path)
    for loaded in (type(scheduler).from_pretrained(tmp_path), type(scheduler).from_config(scheduler.config)):
        assert loaded.settings == scheduler.settings == SamplerSettings(style="multi", stochastic_ratio=0.25)
        assert loaded.config.seed == 5
        for each in (loaded, scheduler):
            each.set_timesteps(3)
        assert torch.equal(loaded.timesteps, scheduler.timesteps)
