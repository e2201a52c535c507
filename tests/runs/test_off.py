"""A run without the flag is the bare host's, to the bit."""

import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
def test_run_without_the_flag_is_bit_identical_to_one_without_the_plugin(runs):
    with_plugin, without = runs["off_with_plugin"].check(), runs["off_without_plugin"].check()
    for name in ("train_loss", "optimization_loss", "learning_rate", "grad_absmax"):
        values = [[step[name] for step in run.step_logs()] for run in (with_plugin, without)]
        assert len(values[0]) == 20
        assert values[0] == values[1], name
    timing = ("step", "iteration", "second", "time", "_per_")
    keys = [
        {key for key in run.step_logs()[0] if not any(word in key for word in timing)} for run in (with_plugin, without)
    ]
    assert keys[0] == keys[1]


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
@pytest.mark.parametrize("file", ["checkpoint-20/pytorch_lora_weights.safetensors", "pytorch_lora_weights.safetensors"])
def test_weights_without_the_flag_have_the_same_keys_and_bits(file, runs):
    one, other = (load_file(runs[name].check().output / file) for name in ("off_with_plugin", "off_without_plugin"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.host_runs("off_with_plugin", "off_without_plugin")
def test_random_number_streams_without_the_flag_end_in_the_same_state(runs):
    states = [
        torch.load(runs[name].check().output / "checkpoint-20/random_states_0.pkl", weights_only=False)
        for name in ("off_with_plugin", "off_without_plugin")
    ]
    assert torch.equal(states[0]["torch_manual_seed"], states[1]["torch_manual_seed"])
    assert repr(states[0]["random_state"]) == repr(states[1]["random_state"])
    assert repr(states[0]["numpy_random_seed"]) == repr(states[1]["numpy_random_seed"])
