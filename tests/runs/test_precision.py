"""bf16 networks, a quantised base, recomputed activations, torch.compile: losses, times and averages stay float32."""

import math

import pytest
import torch

RUNS = ["low_lora", "low_full"]
STEPPED = [*RUNS, "compiled_lora"]


@pytest.mark.host_runs("low_lora", "compiled_lora")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("low_lora", "SD3Transformer2DModel. Using int8-quanto."),
        ("compiled_lora", "DynamoBackend.AOT_EAGER"),
    ],
)
def test_host_did_quantise_and_compile(name, said, runs):
    assert said in runs[name].check().log


@pytest.mark.host_runs(*STEPPED)
@pytest.mark.parametrize("name", STEPPED)
def test_losses_are_finite_float32_and_the_step_leaves_everything_as_it_was(name, runs):
    steps = runs[name].check().of("step")
    assert len(steps) == 3
    for step in steps:
        assert step["loss_dtype"] == "torch.float32"
        assert step["weights_are_back"]
        assert step["loss_is_repeatable"]
        assert step["stream_is_the_students"]
    for values in runs[name].step_logs():
        assert all(math.isfinite(value) for key, value in values.items() if key.startswith("twinflow/"))
        assert values["grad_absmax"] > 0


@pytest.mark.host_runs(*STEPPED)
@pytest.mark.parametrize("name", STEPPED)
def test_target_time_and_sign_are_trained(name, runs):
    last = runs[name].check().of("step")[-1]["apart"]
    assert last["sign"] > 0
    assert last["target_time"] > 0


@pytest.mark.host_runs(*RUNS)
@pytest.mark.parametrize("name", RUNS)
def test_averages_are_kept_in_float32(name, runs):
    file = runs[name].check().output / "checkpoint-3/transformer_ema/ema_model.pt"
    state = torch.load(file, weights_only=True)
    shadows = [value for key, value in state.items() if key.startswith("shadow_params.")]
    assert shadows
    assert {shadow.dtype for shadow in shadows} == {torch.float32}
    assert any(not torch.equal(shadow, shadow.bfloat16().float()) for shadow in shadows)
