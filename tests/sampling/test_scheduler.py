"""The contract of a diffusers scheduler; what sampling makes is in test_sampling, its levels in test_levels."""

import inspect

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)
from simpletuner_twinflow.sampling.data_ward import DataWardTwinFlowScheduler

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from tests.cli.pipeline import run


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


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
OTHERS = {
    "euler": FlowMatchEulerDiscreteScheduler(shift=3.0, base_shift=0.7, use_dynamic_shifting=True),
    "terminal": FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.1, invert_sigmas=True),
    "heun": FlowMatchHeunDiscreteScheduler(shift=3.0),
    "lcm": FlowMatchLCMScheduler(shift=3.0),
    "unipc": UniPCMultistepScheduler(**FLOW, solver_order=2),
    "dpm": DPMSolverMultistepScheduler(**FLOW, solver_order=2),
}


@pytest.mark.parametrize("kind", [TwinFlowScheduler, DataWardTwinFlowScheduler])
@pytest.mark.parametrize("saved", [False, True], ids=["config", "folder"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_taking_over_from_another_scheduler_keeps_to_the_trained_levels(other, saved, kind, tmp_path):
    if saved:
        other.save_pretrained(tmp_path)
    ours = kind.from_pretrained(tmp_path) if saved else kind.from_config(other.config)
    for steps, expected in ((1, [0.999, 0]), (2, [0.999, 0.6, 0]), (3, [0.999, 0.7495, 0.5, 0])):
        ours.set_timesteps(steps)  # the stock one with dynamic shifting would ask for mu
        assert ours.sigmas.tolist() == pytest.approx(expected)
        assert ours.step_times(steps) == pytest.approx(expected[:-1])
    assert (ours.shift, ours.config.solver_order) == (1.0, 1)


def test_what_pipelines_read_is_taken_over():
    ours = TwinFlowScheduler.from_config(OTHERS["euler"].config)
    assert (ours.config.base_shift, ours.config.use_dynamic_shifting) == (0.7, True)


def test_shift_that_is_asked_for_moves_the_levels_of_a_scheduler_that_took_over():
    ours = TwinFlowScheduler.from_config(OTHERS["euler"].config, shift=2.0)
    ours.set_timesteps(2)
    assert ours.sigmas.tolist() == pytest.approx([2 * 0.999 / 1.999, 1.2 / 1.6, 0.0])
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
    torch.testing.assert_close(scheduler.scale_noise(x, scheduler.timesteps[1:], z), torch.full((1, 2), 0.6))


@pytest.mark.parametrize("name", ["s_churn", "s_tmin", "s_tmax", "s_noise"])
def test_churn_is_refused_and_not_passed_over(name):
    scheduler, x = TwinFlowScheduler(), torch.zeros(1, 2)
    with pytest.raises(TwinFlowError, match="has no churn"):
        scheduler.step(x, scheduler.timesteps[0], x, **{name: 0.5})


def token_levels(scheduler):
    """Timesteps of four tokens: the step's own, one on the schedule below it, one between, and a clean one."""
    return torch.tensor([[999.0, 600.0, 700.0, 0.0]])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_tokens_at_levels_of_their_own_go_on_to_the_next_level_below(share):
    scheduler = TwinFlowScheduler(stochastic_ratio=share)
    scheduler.set_timesteps(2)
    x, velocity, noise = torch.randn(3, 1, 4, 5)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(3))
    # Data-ward, as pipelines pass it to the parent here.
    found = scheduler.step(
        -velocity, scheduler.timesteps[0], x, generator=generator, per_token_timesteps=token_levels(scheduler)
    )
    now, following = torch.tensor([0.999, 0.6, 0.7, 0.0]), torch.tensor([0.6, 0.0, 0.6, 0.0])
    x_hat = x - now[:, None] * velocity
    z_hat = noise if share else x + (1 - now[:, None]) * velocity
    torch.testing.assert_close(found.prev_sample, (1 - following[:, None]) * x_hat + following[:, None] * z_hat)
    torch.testing.assert_close(found.pred_original_sample, x_hat)
    assert scheduler.step_index == 1


def test_without_fresh_noise_tokens_go_as_the_parent_takes_them():
    ours, parent = TwinFlowScheduler(stochastic_ratio=0.0), FlowMatchEulerDiscreteScheduler()
    ours.set_timesteps(2)
    parent.set_timesteps(sigmas=[0.999, 0.6])
    x, output = torch.randn(2, 1, 4, 5)
    found, expected = (
        each.step(output, each.timesteps[0], x, per_token_timesteps=token_levels(each), return_dict=False)[0]
        for each in (ours, parent)
    )
    torch.testing.assert_close(found, expected)


def test_token_timestep_that_was_rounded_is_the_steps_own():
    scheduler = TwinFlowScheduler(stochastic_ratio=0.0)
    scheduler.set_timesteps(2)
    x, velocity = torch.randn(2, 1, 4, 5)
    tokens = torch.full((1, 4), 999.0).bfloat16()  # 1000
    found = scheduler.step(-velocity, scheduler.timesteps[0], x, per_token_timesteps=tokens).prev_sample
    torch.testing.assert_close(found, x - (0.999 - 0.6) * velocity)


def test_tokens_of_their_own_are_refused_where_estimates_of_other_steps_are_needed():
    scheduler, x = TwinFlowScheduler(extrapolation=0.2, stochastic_ratio=0.0), torch.zeros(1, 4, 5)
    scheduler.set_timesteps(2)
    with pytest.raises(TwinFlowError, match="levels of their own"):
        scheduler.step(x, scheduler.timesteps[0], x, per_token_timesteps=token_levels(scheduler))


def test_data_ward_tokens_are_the_same_turned_round():
    noise_ward, data_ward = TwinFlowScheduler(), DataWardTwinFlowScheduler()
    x, velocity = torch.randn(2, 1, 4, 5)
    found = []
    for scheduler, sign, tokens in (
        (noise_ward, 1, token_levels(noise_ward)),
        (data_ward, -1, 1 - token_levels(noise_ward) / 1000),
    ):
        scheduler.set_timesteps(2)
        found.append(scheduler.step(sign * velocity, scheduler.timesteps[0], x, per_token_timesteps=tokens).prev_sample)
    torch.testing.assert_close(*found)


def test_data_ward_timestep_off_the_schedule_is_refused():
    scheduler = DataWardTwinFlowScheduler()
    scheduler.set_timesteps(2)
    assert scheduler.index_for_timestep(0.4) == 1
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.index_for_timestep(0.7)
    assert scheduler._sigma_to_t(0.6) == pytest.approx(0.4)


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


def test_of_two_equal_timesteps_the_call_that_opens_an_interval_is_meant():
    scheduler = TwinFlowScheduler(style="multi", solver_order=2)
    scheduler.set_timesteps(5)
    assert [scheduler.index_for_timestep(t) for t in scheduler.timesteps] == [0, 2, 2, 4, 4]


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


def tiny_sd3(kind):
    """A stock Stable Diffusion 3 pipeline at toy size, and the arguments that stand for its text encoders."""
    transformer = SD3Transformer2DModel(
        sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)
    encoders = dict.fromkeys(f"{part}{which}" for part in ("text_encoder", "tokenizer") for which in ("", "_2", "_3"))
    pipeline = kind(transformer=transformer, vae=vae, scheduler=TwinFlowScheduler(), **encoders)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


def tiny_flux():
    """A stock Flux pipeline, which passes sigmas and a mu worked out of the configuration."""
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)
    pipeline = FluxPipeline(
        transformer=transformer, vae=vae, scheduler=TwinFlowScheduler(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


@pytest.mark.parametrize("make", [lambda: tiny_sd3(StableDiffusion3Pipeline), tiny_flux], ids=["sd3", "flux"])
def test_stock_pipelines_sample_with_it_reproducibly_from_a_seed(make):
    pipeline, prompt = make()

    def picture(seed):
        return pipeline(
            **prompt, height=4, width=4, num_inference_steps=2, guidance_scale=0.0, output_type="latent",
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip

    before, first = torch.get_rng_state(), picture(1)
    assert torch.isfinite(first).all()
    assert torch.equal(picture(1), first)
    assert not torch.equal(picture(2), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(pipeline.scheduler.timesteps) == 2


def test_a_stock_image_to_image_pipeline_begins_in_the_middle_of_it():
    pipeline, prompt = tiny_sd3(StableDiffusion3Img2ImgPipeline)
    steps = []
    pipeline(
        **prompt, image=torch.zeros(1, 4, 4, 4), strength=0.5, num_inference_steps=4, guidance_scale=0.0,
        height=4, width=4, output_type="latent",
        callback_on_step_end=lambda pipeline, step, timestep, kwargs: steps.append(float(timestep)) or {},
    )  # fmt: skip
    assert steps == pytest.approx([666.3333, 500.0])


def test_rounding_to_bf16_is_allowed_for_and_no_more():
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(2)
    assert scheduler.index_for_timestep(603.5) == 1
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.index_for_timestep(606.0)


def test_ends_of_the_schedule_are_those_of_the_run():
    scheduler = TwinFlowScheduler()
    for steps, last in ((1, 0.999), (2, 0.6), (4, 0.5)):
        scheduler.set_timesteps(steps)
        assert (scheduler.sigma_max, scheduler.sigma_min) == pytest.approx((0.999, last))


def test_tokens_are_counted_in_the_models_own_number_of_timesteps():
    scheduler = TwinFlowScheduler(num_train_timesteps=500, stochastic_ratio=0.0)
    scheduler.set_timesteps(2)
    x, velocity = torch.randn(2, 1, 2, 5)
    tokens = torch.tensor([[499.5, 350.0]])
    found = scheduler.step(-velocity, scheduler.timesteps[0], x, per_token_timesteps=tokens).prev_sample
    torch.testing.assert_close(found, x - torch.tensor([0.399, 0.1])[:, None] * velocity)
