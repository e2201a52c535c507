"""Few-step sampling of epsilon and v models in stock pipelines."""

import inspect

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from simpletuner_twinflow import TwinFlowDiffusionScheduler, TwinFlowScheduler
from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from tests.method.oracles import GaussianFlow
from tests.sampling.diffusion_oracles import prediction_for

FLOW = GaussianFlow(mean=0.4, std=0.5)
SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = SDXL | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
KINDS = {
    "epsilon": SDXL,
    "v_prediction": SDXL | {"prediction_type": "v_prediction"},
    "zero snr v_prediction": ZERO_SNR,
}
kinds = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
STEPS = pytest.mark.parametrize("steps", [1, 2, 4])


def scheduler_of(settings, **changes):
    return TwinFlowDiffusionScheduler(**settings, **changes)


class OracleUNet(UNet2DConditionModel):
    """A UNet that knows the average velocity of Gaussian data to t = 0, at its own times and in its own prediction."""

    def forward(self, sample, timestep, encoder_hidden_states=None, *args, **kwargs):
        time = timestep.expand(len(sample)).to(torch.float64)
        t = self.path.sigma(time)
        x_t = flow_state(sample.double(), t)
        answer = prediction_for(self.path.prediction_type, FLOW.average_velocity(x_t, t, 0 * t), x_t, t)
        self.asked.append((float(time[0]), float(sample.float().std())))
        return (answer.to(sample.dtype),)


def unet(kind=UNet2DConditionModel, **changes):
    return kind(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, **changes,
    )  # fmt: skip


def autoencoder():
    return AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2)


def tiny_sd(scheduler, network=None, kind=StableDiffusionPipeline):
    pipeline = kind(
        unet=network or unet(), vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8)}


def tiny_sdxl(scheduler):
    network = unet(
        addition_embed_type="text_time", addition_time_embed_dim=2, projection_class_embeddings_input_dim=12 + 8
    )
    pipeline = StableDiffusionXLPipeline(
        unet=network, vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, add_watermarker=False,
    )  # fmt: skip
    return pipeline, {"prompt_embeds": torch.randn(1, 3, 8), "pooled_prompt_embeds": torch.randn(1, 8)}


def tiny_pixart(scheduler):
    network = PixArtTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, patch_size=2, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, caption_channels=8,
    )  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        transformer=network, vae=autoencoder(), scheduler=scheduler, text_encoder=None, tokenizer=None
    )
    prompt = {"prompt_embeds": torch.randn(1, 3, 8), "prompt_attention_mask": torch.ones(1, 3)}
    return pipeline, prompt | {"negative_prompt": None, "use_resolution_binning": False}


PIPELINES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "pixart": tiny_pixart}


def draw(pipeline, arguments, steps, seed=0, size=8, **more):
    pipeline.set_progress_bar_config(disable=True)
    factor = pipeline.vae_scale_factor
    return pipeline(
        **arguments, height=size * factor, width=size * factor, num_inference_steps=steps, guidance_scale=0.0,
        output_type="latent", generator=torch.Generator().manual_seed(seed), **more,
    ).images  # fmt: skip


@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES.keys())
@STEPS
def test_stock_pipelines_draw_with_it_reproducibly_from_a_seed(make, steps):
    pipeline, prompt = make(scheduler_of(SDXL))
    before, first = torch.get_rng_state(), draw(pipeline, prompt, steps)
    assert torch.isfinite(first).all()
    assert torch.equal(draw(pipeline, prompt, steps), first)
    assert not torch.equal(draw(pipeline, prompt, steps, seed=1), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(pipeline.scheduler.timesteps) == pipeline.scheduler.step_index == steps


def oracle_pipeline(scheduler, settings):
    network = unet(OracleUNet)
    network.path, network.asked = scheduler_of(settings).path, []
    return tiny_sd(scheduler, network)


@kinds
@STEPS
def test_samples_of_an_exact_network_are_distributed_like_the_data(settings, steps):
    pipeline, prompt = oracle_pipeline(scheduler_of(settings), settings)
    made = draw(pipeline, prompt, steps, num_images_per_prompt=64, size=16)
    # At the model's last time a = 0.068 of the mean is missing from pure noise: see DiffusionPath.
    assert made.mean() == pytest.approx(0.4, abs=0.02)
    assert made.std() == pytest.approx(0.5, abs=0.01)
    times, sizes = zip(*pipeline.unet.asked, strict=True)
    assert times == pytest.approx(pipeline.scheduler.timesteps.tolist())
    assert max(abs(size - 1) for size in sizes) < 0.25  # it is shown what it was trained on: variance near 1


@kinds
def test_it_walks_as_the_flow_scheduler_does(settings):
    pipeline, prompt = oracle_pipeline(scheduler_of(settings), settings)
    noise = torch.randn(16, 4, 8, 8)
    made = pipeline(
        prompt_embeds=prompt["prompt_embeds"].expand(16, -1, -1), latents=noise, num_inference_steps=4,
        guidance_scale=0.0, output_type="latent", generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    scheduler, path, generator = TwinFlowScheduler(), pipeline.scheduler.path, torch.Generator().manual_seed(3)
    scheduler.set_timesteps(4)
    x = noise.double()
    for timestep, t in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        t = t.double().expand(16)
        point = path.point(x, t)
        seen = path.sigma(point.time)
        x_seen = flow_state(point.x, seen)
        answer = prediction_for(path.prediction_type, FLOW.average_velocity(x_seen, seen, 0 * seen), x_seen, seen)
        x = scheduler.step(path.velocity(answer, point.x, t), timestep, x, generator=generator).prev_sample
    torch.testing.assert_close(made.double(), x, rtol=0, atol=2e-4)


def test_in_bf16_the_samples_stay_near():
    exact, prompt = oracle_pipeline(scheduler_of(SDXL), SDXL)
    coarse, _ = oracle_pipeline(scheduler_of(SDXL), SDXL)
    noise = torch.randn(16, 4, 8, 8).bfloat16()
    made = []
    for pipeline, dtype in ((exact, torch.float32), (coarse.to(torch.bfloat16), torch.bfloat16)):
        images = pipeline(
            prompt_embeds=prompt["prompt_embeds"].expand(16, -1, -1), latents=noise.to(dtype), num_inference_steps=2,
            guidance_scale=0.0, output_type="latent", generator=torch.Generator().manual_seed(3),
        ).images  # fmt: skip
        made.append(images)
    assert made[1].dtype == torch.bfloat16
    assert (made[0] - made[1].float()).square().mean().sqrt() < 0.02


def test_between_the_steps_nothing_is_lost_to_rounding():
    scheduler = scheduler_of(
        SDXL | {"prediction_type": "v_prediction"}, style="any", stochastic_ratio=0.0, level_max=0.9
    )
    scheduler.set_timesteps(40)
    start = torch.randn(64, 16).bfloat16()
    x, exact = start, flow_state(start.double(), scheduler.levels[:1].expand(64))
    for time, level, following in zip(scheduler.timesteps, scheduler.levels, scheduler.levels[1:], strict=False):
        v = torch.full_like(x, 0.25)
        velocity = scheduler.path.velocity(v, x, level.expand(64)).double()
        exact = exact - float(level - following) * velocity
        x = scheduler.step(v, time, x).prev_sample
    assert x.dtype == torch.bfloat16
    assert torch.equal(x, exact.bfloat16())


def test_image_to_image_begins_at_the_level_of_its_first_step():
    pipeline, prompt = tiny_sd(scheduler_of(SDXL), kind=StableDiffusionImg2ImgPipeline)
    times = []
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        **prompt, image=torch.zeros(1, 4, 8, 8), strength=0.5, num_inference_steps=4, guidance_scale=0.0,
        output_type="latent", callback_on_step_end=lambda pipe, step, time, kwargs: times.append(float(time)) or {},
    )  # fmt: skip
    assert times == pytest.approx(pipeline.scheduler.timesteps[2:].tolist())
    scheduler = scheduler_of(SDXL)
    scheduler.set_timesteps(4)
    x, z = torch.randn(2, 1, 4, 8, 8)
    for begin in (0, 2):  # the first lies above the model's last time
        scheduler.set_begin_index(begin)
        noisy = scheduler.add_noise(x, z, scheduler.timesteps[begin : begin + 1])
        t = scheduler.levels[begin]
        torch.testing.assert_close(flow_state(noisy, t.expand(1)), (1 - t) * x + t * z)


def test_noise_is_added_as_the_stock_schedulers_add_it():
    ours, stock = scheduler_of(SDXL), DDIMScheduler(**SDXL)
    x, z, times = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 10, 500, 900, 999])
    torch.testing.assert_close(ours.add_noise(x, z, times), stock.add_noise(x, z, times), rtol=0, atol=2e-5)


STOCK = {
    "ddim": DDIMScheduler(**SDXL, prediction_type="v_prediction", clip_sample=False, steps_offset=1),
    "pndm": PNDMScheduler(**SDXL, prediction_type="v_prediction", skip_prk_steps=True),
    "euler": EulerDiscreteScheduler(**SDXL, prediction_type="v_prediction", timestep_spacing="leading"),
    "dpm": DPMSolverMultistepScheduler(**SDXL, prediction_type="v_prediction", solver_order=3),
    "zero snr": DDIMScheduler(**ZERO_SNR, timestep_spacing="trailing"),
}


@pytest.mark.parametrize("stock", STOCK.values(), ids=STOCK.keys())
def test_it_takes_over_from_stock_schedulers_with_their_noise_schedule_and_prediction(stock):
    ours = TwinFlowDiffusionScheduler.from_config(stock.config)
    zero_snr = stock.config.get("rescale_betas_zero_snr", False)
    expected = scheduler_of(ZERO_SNR if zero_snr else SDXL).alphas_cumprod
    torch.testing.assert_close(ours.alphas_cumprod, expected)
    assert ours.path.prediction_type == "v_prediction"
    ours.set_timesteps(2)
    assert ours.levels.tolist() == pytest.approx([0.999, 0.6, 0.0])


def test_what_a_stock_scheduler_had_by_default_is_taken_over_too():
    ours = TwinFlowDiffusionScheduler.from_config(LCMScheduler().config)
    assert (ours.config.beta_schedule, ours.config.beta_end) == ("scaled_linear", 0.012)
    given, unused = TwinFlowDiffusionScheduler.from_config(
        DDIMScheduler().config, prediction_type="v_prediction", return_unused_kwargs=True
    )
    assert given.path.prediction_type == "v_prediction"
    assert "prediction_type" not in unused


def test_the_configuration_survives_saving_and_loading(tmp_path):
    scheduler = scheduler_of(ZERO_SNR, style="multi", stochastic_ratio=0.25, level_max=0.99, level_min=0.2, seed=5)
    scheduler.save_pretrained(tmp_path)
    for loaded in (
        TwinFlowDiffusionScheduler.from_pretrained(tmp_path),
        TwinFlowDiffusionScheduler.from_config(scheduler.config),
    ):
        assert loaded.alphas_cumprod[-1] == 0
        assert loaded.path.prediction_type == "v_prediction"
        assert (loaded.config.style, loaded.config.stochastic_ratio, loaded.config.seed) == ("multi", 0.25, 5)
        loaded.set_timesteps(3)
        scheduler.set_timesteps(3)
        assert torch.equal(loaded.timesteps, scheduler.timesteps)
        torch.testing.assert_close(loaded.levels, torch.tensor([0.99, 0.595, 0.2, 0.0]))


def test_pipelines_find_what_they_look_for():
    scheduler = scheduler_of(SDXL)
    scheduler.set_timesteps(4, device="cpu")
    assert scheduler.order == 1
    assert scheduler.timesteps.dtype == torch.float32
    assert scheduler.timesteps[0] == 999  # the flow's 0.999 lies above it
    torch.testing.assert_close(scheduler.path.sigma(scheduler.timesteps[1:]), scheduler.levels[1:-1])
    assert scheduler.init_noise_sigma == pytest.approx(1 / (0.999**2 + 0.001**2) ** 0.5)
    assert {"timesteps", "sigmas"} <= set(inspect.signature(scheduler.set_timesteps).parameters)
    assert len(scheduler) == 1000
    assert scheduler.target_times.tolist() == [0, 0, 0, 0]
    assert scheduler.step_times(2) == TwinFlowScheduler().step_times(2)
    x = torch.randn(2, 3)
    assert scheduler.scale_model_input(x, scheduler.timesteps[0]) is x


def test_steps_beyond_the_end_and_off_the_schedule_are_refused():
    scheduler, x = scheduler_of(SDXL), torch.randn(1, 4)
    with pytest.raises(TwinFlowError, match="not on the schedule"):
        scheduler.step(x, 500, x)
    scheduler.step(x, scheduler.timesteps[0].bfloat16(), x)
    with pytest.raises(TwinFlowError, match="call set_timesteps"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_a_sample_that_the_pipeline_has_changed_is_taken_as_changed():
    scheduler, x = scheduler_of(SDXL, stochastic_ratio=0.0), torch.randn(2, 4)
    scheduler.set_timesteps(2)
    x = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
    changed = x + 1
    again = scheduler_of(SDXL, stochastic_ratio=0.0)
    again.set_timesteps(2)
    again.set_begin_index(1)
    expected = again.step(x, again.timesteps[1], changed).prev_sample
    torch.testing.assert_close(scheduler.step(x, scheduler.timesteps[1], changed).prev_sample, expected)


def test_another_kind_of_prediction_is_refused():
    with pytest.raises(TwinFlowConfigError, match="prediction_type is 'sample'"):
        scheduler_of(SDXL | {"prediction_type": "sample"})


def test_crowded_levels_are_those_of_the_spacing():
    """(a, b, c) = (2, 1, 1) of 1 - sigma: the square of each even place from 0.001 to 0.4."""
    scheduler = scheduler_of(SDXL, kumaraswamy=(2.0, 1.0, 1.0), level_min=0.6)
    scheduler.set_timesteps(3)
    expected = [1 - place**2 for place in (0.001, 0.2005, 0.4)]
    assert scheduler.levels.tolist() == pytest.approx([*expected, 0.0])


def test_estimates_are_carried_on_from_the_third_interval():
    """As the flow's scheduler does: at a third of the way x_hat is moved by the extrapolation times its last change."""
    x = torch.randn(1, 4)
    outputs = torch.randn(4, 1, 4)
    made = {}
    for reach in (0.0, 0.5):
        scheduler = scheduler_of(
            SDXL | {"prediction_type": "v_prediction"}, style="multi", extrapolation=reach, level_max=0.9
        )
        scheduler.set_timesteps(4)
        state, states, clean = x, [], []
        for time, output in zip(scheduler.timesteps, outputs, strict=True):
            found = scheduler.step(output, time, state)
            state = found.prev_sample
            states.append(state)
            clean.append(found.pred_original_sample)
        made[reach] = states, clean
    for interval in (0, 1):
        assert torch.equal(made[0.0][0][interval], made[0.5][0][interval])
    assert not torch.allclose(made[0.0][0][2], made[0.5][0][2], atol=1e-3)


def test_target_times_are_those_of_the_style():
    for style, expected in (("few", [0, 0, 0]), ("any", [0.7495, 0.5, 0]), ("multi", [0.999, 0.7495, 0.5])):
        scheduler = scheduler_of(SDXL, style=style, level_min=0.5)
        scheduler.set_timesteps(3)
        assert scheduler.target_times.tolist() == pytest.approx(expected)


def test_noise_without_a_generator_is_settled_by_seed_and_ratio():
    x, output = torch.randn(2, 1, 4)

    def stepped(**settings):
        scheduler = scheduler_of(SDXL | {"prediction_type": "v_prediction"}, **settings)
        scheduler.set_timesteps(2)
        return scheduler.step(output, scheduler.timesteps[0], x).prev_sample

    assert torch.equal(stepped(), stepped(seed=0))
    assert not torch.allclose(stepped(), stepped(seed=1), atol=0.1)
    assert torch.equal(stepped(stochastic_ratio=0.0), stepped(stochastic_ratio=0.0, seed=1))
    half, none, other = stepped(stochastic_ratio=0.5), stepped(stochastic_ratio=0.0), stepped(stochastic_ratio=1.0)
    assert not torch.allclose(half, none, atol=0.05)
    assert not torch.allclose(half, other, atol=0.05)


def test_of_equal_timesteps_the_first_level_is_meant():
    scheduler = scheduler_of(SDXL, level_min=0.95)  # all above the model's last time
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [999.0] * 3
    assert scheduler.index_for_timestep(999) == 0
