"""Stock pipelines of epsilon and v models draw with the diffusion scheduler."""

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from tests.sampling.diffusion_oracles import SDXL, prediction_for
from tests.sampling.diffusion_pipelines import KINDS, PIPELINES, draw, oracle_pipeline, scheduler_of, tiny_sd
from tests.sampling.loop import FLOW

kinds = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
STEPS = pytest.mark.parametrize("steps", [1, 2, 4])


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
def test_it_solves_as_the_flow_scheduler_does(settings):
    pipeline, prompt = oracle_pipeline(scheduler_of(settings), settings)
    noise = torch.randn(16, 4, 8, 8)
    made = pipeline(
        prompt_embeds=prompt["prompt_embeds"].expand(16, -1, -1), latents=noise, num_inference_steps=4,
        guidance_scale=0.0, output_type="latent", generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    scheduler, path = TwinFlowScheduler(stochastic_ratio=1.0), pipeline.scheduler.path
    generator = torch.Generator().manual_seed(3)
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


def test_image_to_image_begins_at_the_sigma_of_its_first_step():
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
        t = scheduler.flow_sigmas[begin]
        torch.testing.assert_close(flow_state(noisy, t.expand(1)), (1 - t) * x + t * z)
