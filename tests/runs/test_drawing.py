"""Validation in the installed host, and stock pipelines with what a run leaves."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from tests.runs.harness import ROOT, SEED


@pytest.mark.host_runs("seed_lora", "adversarial_full")
@pytest.mark.parametrize("name", ["seed_lora", "adversarial_full"])
def test_validation_calls_our_scheduler_target_step_count_times_at_guidance_zero(name, runs):
    found = runs[name]
    run = (found[0] if isinstance(found, tuple) else found).check()
    pipelines, steps = run.of("pipeline"), run.of("scheduler")
    assert len(pipelines) == 2 * 2  # at steps 2 and 4, with the student's weights and with EMA's
    assert {(call["steps"], call["guidance"]) for call in pipelines} == {(SEED["twinflow_target_step_count"], 0.0)}
    assert len(steps) == len(pipelines) * SEED["twinflow_target_step_count"]
    assert {step["class"] for step in steps} == {"simpletuner_twinflow.sampling.flow_scheduler.TwinFlowScheduler"}
    assert list(run.output.glob("validation_images/step_2_*.png"))


@pytest.mark.host_runs("adversarial_lora")
def test_base_model_benchmark_keeps_the_ordinary_sampler(runs):
    events = runs["adversarial_lora"].check().events
    begin = next(i for i, event in enumerate(events) if event == {"kind": "validation", "type": "base_model"})
    end = next(i for i, event in enumerate(events) if event["kind"] == "validation" and i > begin)
    benchmark = events[begin + 1 : end]
    calls = [event for event in benchmark if event["kind"] == "pipeline"]
    assert {(call["steps"], call["guidance"]) for call in calls} == {(5, 3.0)}  # the config's own settings
    assert {event["class"] for event in benchmark if event["kind"] == "scheduler"} == {
        "diffusers.schedulers.scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler"
    }


@pytest.mark.host_runs("adversarial_lora")
@pytest.mark.parametrize("file", [".", "checkpoint-4", "checkpoint-4/ema"])
def test_adapter_files_load_in_a_stock_pipeline_and_change_its_pictures(file, runs):
    folder = runs["adversarial_lora"].check().output / file
    assert all("lora" in key for key in load_file(folder / "pytorch_lora_weights.safetensors"))
    pipe = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")

    def draw() -> torch.Tensor:
        how = {"height": 64, "width": 64, "guidance_scale": 0.0, "num_inference_steps": 2, "output_type": "pt"}
        return pipe("a handwritten digit 3", generator=torch.Generator().manual_seed(0), **how).images

    before = draw()
    pipe.load_lora_weights(folder)
    assert not torch.equal(draw(), before)
