"""The real host trains, validates and checkpoints epsilon and v models with TwinFlow."""

import json
import math
import re

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from simpletuner_twinflow import TwinFlowDiffusionScheduler
from simpletuner_twinflow.host.checkpoints.saving import read_time_conditioning
from simpletuner_twinflow.sampling.stock import stock_timesteps
from testbed.pipelines.diffusion import SDXL_BETAS
from testbed.stock import run_without_plugin_and_host

RUNS = {"sdxl_lora": "epsilon", "sdxl_v_full": "v_prediction"}
TERMS = {"twinflow/rcgm", "twinflow/real_velocity", "twinflow/adversarial", "twinflow/rectify"}
both = [pytest.param(name, marks=pytest.mark.host_runs(name)) for name in RUNS]
each_run = pytest.mark.parametrize("name", both)


def scheduler_of(name):
    settings = {"prediction_type": RUNS[name], "rescale_betas_zero_snr": name == "sdxl_v_full"}
    return TwinFlowDiffusionScheduler(**SDXL_BETAS, **settings)


def draw(pipeline, **steps):
    pipeline.set_progress_bar_config(disable=True)
    given = {"prompt": "a handwritten digit 3", "height": 64, "width": 64, "output_type": "latent"}
    return pipeline(**given, **steps, guidance_scale=0.0, generator=torch.Generator().manual_seed(1)).images


@each_run
def test_every_term_is_trained_and_finite(name, runs):
    logs = runs[name].check().step_logs()
    assert len(logs) == 4
    for log in logs:
        assert log.keys() >= TERMS
        assert all(math.isfinite(log[term]) for term in TERMS)
        assert log["grad_absmax"] > 0


@each_run
def test_the_network_is_asked_at_its_own_time_of_the_flows_time(name, runs):
    passes = [event for event in runs[name].check().of("training_pass") if "t" in event]
    path = scheduler_of(name).path
    for kind in ("time", "t", "r", "sign"):
        assert len({value for event in passes for value in event[kind]}) > 1, kind
    for event in passes:
        t, time = torch.tensor(event["t"]), torch.tensor(event["time"])
        torch.testing.assert_close(time, path.time(t), rtol=0, atol=2e-3)
        assert all(r <= t for r, t in zip(event["r"], event["t"], strict=True))
    # Jumps to the data, by the student and at the end of the teacher's rollouts. The student's begin at samplers' times
    # for 1, 2 and 4 steps, the first of which is the model's last one.
    few_step = {time for event in passes for time, r in zip(event["time"], event["r"], strict=True) if r == 0}
    scheduler, times = scheduler_of(name), set()
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps)
        times |= {round(time, 1) for time in scheduler.timesteps.tolist()}
    begun = times & {round(time, 1) for time in few_step}
    assert max(times) in begun
    assert len(begun) > 2


@each_run
def test_the_empty_prompt_is_asked_for_guidance_with_its_pooled_embedding(name, runs):
    passes = [event for event in runs[name].check().of("training_pass") if "t" in event]
    with_grad = {value for event in passes if event["with_grad"] for value in event["prompts"]}
    others = {value for event in passes if not event["with_grad"] for value in event["prompts"]}
    pooled = {value for event in passes if event["with_grad"] for value in event["pooled"]}
    pooled_others = {value for event in passes if not event["with_grad"] for value in event["pooled"]}
    assert len(others - with_grad) == len(pooled_others - pooled) == 1


@each_run
def test_validation_draws_with_the_few_step_scheduler_of_the_model(name, runs):
    run, scheduler = runs[name].check(), scheduler_of(name)
    scheduler.set_timesteps(2)
    steps = run.of("sampling_step")
    assert len(steps) == 8  # twice, student and EMA, two steps each
    assert {step["prediction_type"] for step in steps} == {RUNS[name]}
    assert [step["time"] for step in steps] == pytest.approx(scheduler.timesteps.tolist() * 4)
    assert all(0.9 < step["size"] < 1.1 for step in steps[::2])  # pure noise
    pictures = sorted((run.output / "validation_images").glob("*.png"))
    assert [picture.name.split("_validation")[0] for picture in pictures] == ["step_2", "step_4"]
    for picture in pictures:
        with Image.open(picture) as drawn:
            assert min(drawn.size) >= 64


@pytest.mark.host_runs("sdxl_lora")
def test_a_lora_checkpoint_holds_the_conditioning_and_its_adapter_loads_in_stock_diffusers(runs):
    run = runs["sdxl_lora"].check()
    checkpoint = run.output / "checkpoint-4"
    trained = read_time_conditioning(checkpoint)[0]
    assert {key.split(".")[0] for key in trained} == {"twinflow_target_time", "twinflow_negative_time"}
    assert any(weight.abs().max() > 0 for key, weight in trained.items() if "linear_2" in key)
    assert trained["twinflow_negative_time.weight"].abs().max() > 0
    pipeline = StableDiffusionXLPipeline.from_pretrained(run.folder.parent / "tiny_sdxl")
    pipeline.scheduler = TwinFlowDiffusionScheduler.from_config(pipeline.scheduler.config)
    before = draw(pipeline, num_inference_steps=2)
    pipeline.load_lora_weights(run.output, weight_name="pytorch_lora_weights.safetensors")
    assert pipeline.get_active_adapters()
    after = draw(pipeline, num_inference_steps=2)
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 1e-4


@pytest.mark.host_runs("sdxl_v_full")
def test_a_full_model_has_moved_and_its_checkpoints_keep_the_conditioning(runs):
    run = runs["sdxl_v_full"].check()
    exported = UNet2DConditionModel.from_pretrained(run.output / "pipeline" / "unet")
    base = UNet2DConditionModel.from_pretrained(run.folder.parent / "tiny_sdxl_v" / "unet")
    moved = [not torch.equal(*pair) for pair in zip(exported.parameters(), base.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert all(torch.isfinite(parameter).all() for parameter in exported.parameters())
    for part in ("unet", "unet_ema"):
        weights = load_file(run.output / "checkpoint-4" / part / "diffusion_pytorch_model.safetensors")
        assert weights["twinflow_negative_time.weight"].abs().max() > 0


@pytest.mark.host_runs("sdxl_v_full")
def test_the_exported_pipeline_is_of_stock_classes_and_draws_with_its_own_scheduler_what_ours_draws(runs):
    folder = runs["sdxl_v_full"].check().output / "pipeline"
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert {value[0] for value in index.values() if isinstance(value, list)} == {"diffusers", "transformers", None}
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    assert isinstance(pipeline.scheduler, LCMScheduler)
    stock = draw(pipeline, timesteps=stock_timesteps(pipeline.scheduler.config, 2))
    pipeline.scheduler = TwinFlowDiffusionScheduler.from_config(pipeline.scheduler.config)
    ours = draw(pipeline, num_inference_steps=2)
    assert (stock - ours).square().mean().sqrt() < 0.02 * ours.std()  # its timesteps are rounded


@each_run
def test_the_cards_code_runs_without_plugin_and_host(name, runs):
    run = runs[name].check()
    folder = run.output / "pipeline" if name == "sdxl_v_full" else run.output
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "TwinFlowDiffusionScheduler" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    # On the hub an adapter stands alone: the host uploads no folder beside it.
    assert "subfolder" not in code
    assert ("LCMScheduler(" in code) == (name != "sdxl_v_full")
    result = run_without_plugin_and_host(code, run.folder)
    assert result.returncode == 0, result.stderr[-3000:]
    with Image.open(run.folder / "output.png") as drawn:
        assert drawn.size == (64, 64)
