"""Guidance in whole runs: the frozen base stays what the model's files say, whatever is done to the network."""

import pytest

from tests.runs.run import Run

UNTOUCHED = {  # by run: what is special about it
    "adversarial_lora": "dropout",
    "adversarial_full": "a copy in bf16, on the CPU",
    "low_lora": "an int8 base, bf16, gradient checkpointing",
    "low_full": "bf16, gradient checkpointing",
    "compiled_lora": "torch.compile",
    "killed_lora": "resumed",
    "killed_full": "resumed",
}


def last(found) -> Run:
    """The run, or the last of several in one folder."""
    return (found[-1] if isinstance(found, tuple) else found).check()


@pytest.mark.host_runs(*UNTOUCHED)
@pytest.mark.parametrize("name", UNTOUCHED)
def test_base_is_to_the_bit_the_network_in_the_models_files_at_every_step(name, runs):
    steps = last(runs[name]).of("step")
    assert len(steps) >= 2
    assert all(step["base_untouched"] is True for step in steps)


@pytest.mark.host_runs("shapes")
def test_no_base_is_kept_where_the_ema_is_the_reference(runs):
    run = runs["shapes"].check()
    assert all(step["base_untouched"] is None for step in run.of("step"))
    assert "against the EMA teacher, in the velocity" in run.log
    assert "first values" not in run.log


@pytest.mark.host_runs("adversarial_lora", "adversarial_full")
@pytest.mark.parametrize(
    ("name", "base"),
    [("adversarial_lora", "adapter switched off"), ("adversarial_full", "a copy of the first weights")],
)
def test_log_says_once_what_guidance_is_trained_in(name, base, runs):
    log = runs[name].check().log
    line = f"scale 2 (twinflow_enhanced_ratio 0.5), against the frozen base ({base}), in the velocity"
    assert log.count("against the frozen base") == log.count(f"  guidance   {line}") == 1
    assert log.count("GB of bfloat16 on cpu.") == (name == "adversarial_full")
