"""The flow scheduler as pipelines use it; what holds for every few-step scheduler is in test_base."""

import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import DerivedNoise, sample
from tests.sampling.loop import FLOW, run


def test_pipelines_find_what_they_look_for():
    scheduler = TwinFlowScheduler(num_train_timesteps=1000, prediction_type="flow_matching", shift=1.0)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.config.base_image_seq_len == 256
    assert scheduler.config.max_image_seq_len == 4096
    assert scheduler.config.base_shift == 0.5
    assert scheduler.config.max_shift == 1.15
    assert scheduler.config.use_dynamic_shifting is False
    assert {"sigmas", "timesteps", "mu"} <= set(inspect.signature(scheduler.set_timesteps).parameters)
    assert "generator" in inspect.signature(scheduler.step).parameters
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps)
        assert (scheduler.sigma_max, scheduler.sigma_min) == pytest.approx((1, 1 / steps))
        assert torch.equal(scheduler.sigmas, scheduler.flow_sigmas)
        torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)


def test_every_setting_is_saved_and_loaded(tmp_path):
    scheduler = TwinFlowScheduler(
        shift=2.0, style="multi", stochastic_ratio=0.25, sigma_max=0.99, sigma_min=0.0, time_dtype="bfloat16",
        time_unit=1,
    )  # fmt: skip
    scheduler.save_pretrained(tmp_path)
    for loaded in (TwinFlowScheduler.from_pretrained(tmp_path), TwinFlowScheduler.from_config(scheduler.config)):
        assert loaded.settings == scheduler.settings
    assert scheduler.settings.shift == 2.0


def test_shift_that_is_set_later_moves_the_sigmas_too():
    later = TwinFlowScheduler()
    later.set_shift(3.0)
    assert later.step_times(4) == TwinFlowScheduler(shift=3.0).step_times(4) != TwinFlowScheduler().step_times(4)


def test_timesteps_are_counted_in_the_models_own_number_of_them():
    scheduler = TwinFlowScheduler(num_train_timesteps=500)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == pytest.approx([500, 250])
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.5, 0.0])


FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
OTHERS = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0, base_shift=0.7, use_dynamic_shifting=True),
    "terminal": FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.1),
    "inverted": FlowMatchEulerDiscreteScheduler(shift=3.0, invert_sigmas=True, num_train_timesteps=1),
    "heun": FlowMatchHeunDiscreteScheduler(shift=3.0),
    "lcm": FlowMatchLCMScheduler(shift=3.0),
    "unipc": UniPCMultistepScheduler(**FLOW_SIGMAS, solver_order=2),
    "dpm": DPMSolverMultistepScheduler(**FLOW_SIGMAS, solver_order=2),
}


@pytest.mark.parametrize("saved", [False, True], ids=["config", "folder"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_taking_over_from_another_scheduler_keeps_to_the_trained_sigmas(other, saved, tmp_path):
    if saved:
        other.save_pretrained(tmp_path)
    ours = TwinFlowScheduler.from_pretrained(tmp_path) if saved else TwinFlowScheduler.from_config(other.config)
    for steps, expected in ((1, [1, 0]), (2, [1, 0.5, 0]), (4, [1, 0.6490176, 0.4094029, 0.25, 0])):
        ours.set_timesteps(steps)  # the stock one with dynamic shifting would ask for mu
        assert ours.flow_sigmas.tolist() == pytest.approx(expected)
        assert ours.step_times(steps) == pytest.approx(expected[:-1])
    assert ours.shift == 1.0


def test_what_pipelines_read_is_taken_over():
    ours = TwinFlowScheduler.from_config(OTHERS["euler"].config)
    assert (ours.config.base_shift, ours.config.use_dynamic_shifting) == (0.7, True)
    inverted = TwinFlowScheduler.from_config(OTHERS["inverted"].config)
    assert (inverted.config.invert_sigmas, inverted.config.num_train_timesteps) == (True, 1)


def test_shift_that_is_asked_for_moves_the_sigmas_of_a_scheduler_that_took_over():
    ours = TwinFlowScheduler.from_config(OTHERS["euler"].config, shift=2.0)
    ours.set_timesteps(2)
    assert ours.sigmas.tolist() == pytest.approx([1.0, 1.0 / 1.5, 0.0])
    given, unused = TwinFlowScheduler.from_config(OTHERS["euler"].config, return_unused_kwargs=True, mu=1.0)
    assert (given.shift, unused["mu"]) == (1.0, 1.0)


@pytest.mark.parametrize("other", [DDIMScheduler(), DDIMScheduler(prediction_type="v_prediction")])
def test_taking_over_from_a_diffusion_models_scheduler_is_refused_with_a_way_out(other):
    with pytest.raises(TwinFlowConfigError, match=r"prediction_type is .*use TwinFlowDiffusionScheduler.from_config"):
        TwinFlowScheduler.from_config(other.config)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_diffusion_scheduler_refuses_to_take_over_from_one_of_a_flow(other):
    with pytest.raises(TwinFlowConfigError, match=r"for a flow use TwinFlowScheduler.from_config"):
        TwinFlowDiffusionScheduler.from_config(other.config)


def test_step_takes_its_arguments_in_the_parents_order():
    kinds = (TwinFlowScheduler, FlowMatchEulerDiscreteScheduler)
    ours, parents = (inspect.signature(kind.step).parameters for kind in kinds)
    assert [(name, one.default) for name, one in ours.items()] == [(name, one.default) for name, one in parents.items()]


def test_every_public_method_of_the_parent_works():
    """As each is called by pipelines; `step` and `set_timesteps` are told apart elsewhere."""
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(2)
    t = torch.tensor([0.25, 0.5])
    parent = FlowMatchEulerDiscreteScheduler()
    assert torch.equal(scheduler.time_shift(0.7, 1.0, t), parent.time_shift(0.7, 1.0, t))
    assert torch.equal(scheduler.stretch_shift_to_terminal(t), t)
    assert len(scheduler) == 1000
    assert scheduler.index_for_timestep(scheduler.timesteps[1]) == 1
    x, z = torch.zeros(1, 2), torch.ones(1, 2)
    torch.testing.assert_close(scheduler.scale_noise(x, scheduler.timesteps[1:], z), torch.full((1, 2), 0.5))


@pytest.mark.parametrize("name", ["s_churn", "s_tmin", "s_tmax", "s_noise"])
def test_churn_is_refused_and_not_passed_over(name):
    scheduler, x = TwinFlowScheduler(), torch.zeros(1, 2)
    with pytest.raises(TwinFlowError, match="has no churn"):
        scheduler.step(x, scheduler.timesteps[0], x, **{name: 0.5})


def test_image_to_image_begins_in_the_middle():
    scheduler = TwinFlowScheduler(style="any", sigma_min=0.0)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    x, z = torch.full((1, 3), 0.4), torch.randn(1, 3)
    started = scheduler.scale_noise(x, scheduler.timesteps[1:2], z)
    torch.testing.assert_close(started, 0.75 * z + 0.25 * x)
    velocity = torch.randn(1, 3)
    stepped = scheduler.step(velocity, scheduler.timesteps[1], started).prev_sample
    torch.testing.assert_close(stepped, started - 0.25 * velocity)
    assert scheduler.step_index == 2


def test_prediction_of_another_kind_is_refused():
    with pytest.raises(TwinFlowConfigError, match="prediction_type is 'epsilon'"):
        TwinFlowScheduler(prediction_type="epsilon")


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("style", ["few", "any", "multi"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_makes_what_the_plain_loop_makes(style, steps, share):
    noise, settings = torch.randn(4, 3, dtype=torch.float64), {"style": style, "stochastic_ratio": share}
    expected = sample(FLOW.average_velocity, noise, steps, SamplerSettings(**settings))
    torch.testing.assert_close(run(TwinFlowScheduler(**settings), noise, steps), expected, rtol=0, atol=1e-5)


def test_the_last_step_returns_its_clean_estimate():
    scheduler = TwinFlowScheduler()
    x, velocity = torch.randn(2, 2, 3)
    output = scheduler.step(velocity, scheduler.timesteps[0], x)
    torch.testing.assert_close(output.prev_sample, x - velocity)
    assert torch.equal(output.pred_original_sample, output.prev_sample)


def test_the_output_has_the_samples_dtype_while_the_state_does_not_lose_digits():
    noise = torch.randn(64, 16, dtype=torch.float64).bfloat16()
    scheduler = TwinFlowScheduler(style="any", stochastic_ratio=0.0)
    # A network that never moves the sample: rounding at each of 50 steps would.
    steps = run(scheduler, noise, 50, network=lambda x, t, r: torch.full_like(x, 1 / 3))
    assert steps.dtype == torch.bfloat16
    third = float(torch.tensor(1 / 3).bfloat16())
    assert torch.equal(steps, (noise.double() - third).bfloat16())


def test_without_a_generator_the_noise_is_that_of_the_start_noise():
    noise, velocity = torch.randn(2, 2, 3)
    scheduler = TwinFlowScheduler(stochastic_ratio=1.0)
    scheduler.set_timesteps(2)
    stepped = scheduler.step(velocity, scheduler.timesteps[0], noise).prev_sample
    fresh = (stepped - 0.4 * (noise - 0.999 * velocity)) / 0.6
    torch.testing.assert_close(fresh, DerivedNoise(noise)(noise), rtol=0, atol=1e-5)
