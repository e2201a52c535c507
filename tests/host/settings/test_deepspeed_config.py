"""DeepSpeed: stages 1 and 2 of ZeRO are accepted however they are written; all else is one line with the way out."""

import json

import pytest

from simpletuner_twinflow.host.settings.deepspeed_config import (
    DeepSpeedConfigError,
    deepspeed_problems,
    deepspeed_settings,
    zero_stage,
)

FULL = {"model_type": "full", "use_ema": True, "validation_disable": True}


def zero(stage: object, **rest: object) -> dict:
    return {"zero_optimization": {"stage": stage}, **rest}


def problems(settings: object, **changes: object) -> list[str]:
    return [*deepspeed_problems(FULL | {"deepspeed_config": settings} | changes, {})]


@pytest.mark.parametrize("stage", [1, 2])
def test_stages_1_and_2_are_accepted_as_object_as_text_and_as_file(stage, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(zero(stage)), encoding="utf-8")
    for written in (zero(stage), json.dumps(zero(stage)), repr(zero(stage)), str(file), file):
        assert zero_stage(deepspeed_settings(written)) == stage
        assert problems(written) == []


@pytest.mark.parametrize("steps", ["auto", 2, "2"])
def test_accumulation_that_is_the_runs_is_accepted(steps):
    assert problems(zero(2, gradient_accumulation_steps=steps), gradient_accumulation_steps=2) == []


def test_precision_that_is_left_to_accelerate_is_the_runs():
    auto = zero(2, fp16={"enabled": "auto"}, bf16={"enabled": "auto"})
    assert problems(auto, mixed_precision="bf16") == []


@pytest.mark.parametrize("off", [None, "", "None", False])
def test_nothing_is_said_without_deepspeed(off):
    assert deepspeed_settings(off) is None
    assert problems(off, model_type="lora") == []


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        (zero(3), {}, ["zero_optimization.stage", "3", "splits the weights", "stage 1 or 2"]),
        (zero(0), {}, ["zero_optimization.stage", "0", "only stages 1 and 2", "stage 1 or 2"]),
        (zero("auto"), {}, ["zero_optimization.stage", '"auto"', "stage 1 or 2"]),
        (zero(True), {}, ["zero_optimization.stage", "true", "stage 1 or 2"]),
        ({"optimizer": {}}, {}, ["zero_optimization.stage", "0", "stage 1 or 2"]),
        ({"zero_optimization": True}, {}, ["zero_optimization.stage", "0", "stage 1 or 2"]),
        (zero(2, fp16={"enabled": True}), {}, ["fp16.enabled", "true", "bf16"]),
        (zero(2, amp={"enabled": True}), {}, ["amp.enabled", "true", "bf16"]),
        (zero(2, fp16={"enabled": "auto"}), {"mixed_precision": "fp16"}, ["mixed_precision", '"fp16"', "bf16"]),
        ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, {}, ["zero_optimization.cpu_offload", "remove it"]),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}, {}, ["offload_optimizer", '"cpu"']),
        ("~nobody-has-this-home/x.json", {}, ["deepspeed_config", "cannot be read"]),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            {},
            ["zero_optimization.offload_optimizer", '"cpu"', "remove it"],
        ),
        (
            zero("2"),
            {},
            ["zero_optimization.stage", '"2"', 'reads it as {"zero_optimization": {"stage": 2}}, a number'],
        ),
        ({"zero_stage": 2}, {}, ["zero_optimization.stage", "0", 'reads it as {"zero_optimization": {"stage": 2}}']),
        (
            zero(2, gradient_accumulation_steps=4),
            {"gradient_accumulation_steps": 2},
            ["gradient_accumulation_steps", "is 4 and 2 in the run", '"auto"'],
        ),
        (zero(2, gradient_accumulation_steps=4), {}, ["is 4 and 1 in the run"]),
        (zero(2), {"fsdp_enable": True}, ["fsdp_enable", "true", "remove deepspeed_config"]),
        (zero(2), {"model_type": "lora"}, ["model_type", '"lora"', "SimpleTuner trains no LoRA", '"full"']),
        (zero(2), {"crepa_enabled": True}, ["crepa_enabled", "true", "set it to false"]),
        (zero(2), {"urepa_enabled": True}, ["urepa_enabled", "true", "set it to false"]),
        (zero(2), {"tread_config": "{}"}, ["tread_config", "remove it"]),
        (zero(2), {"validation_disable": False}, ["validation_disable", "false", "draws nothing", "set it to true"]),
        (zero(2), {"eval_steps_interval": 10}, ["eval_steps_interval", "10", "remove it"]),
        ("nowhere.json", {}, ["deepspeed_config", "nowhere.json", "cannot be read", "remove deepspeed_config"]),
        ("{nothing", {}, ["deepspeed_config", "{nothing", "cannot be read"]),
        ("[1]", {}, ["deepspeed_config", "[1]", "must hold an object"]),
        (3, {}, ["deepspeed_config", "3", "must hold an object"]),
    ],
)
def test_all_else_is_refused_in_one_line_that_names_key_value_and_way_out(settings, changes, words):
    [line] = problems(settings, **changes)
    for word in words:
        assert word in line
    assert "Way out" in line


def test_offload_to_nothing_is_no_offload():
    assert problems({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "none"}}}) == []


def test_a_launcher_that_switches_deepspeed_on_needs_the_runs_own_settings():
    on = {"ACCELERATE_USE_DEEPSPEED": "true"}
    [line] = deepspeed_problems(FULL, on)
    assert "ACCELERATE_USE_DEEPSPEED" in line
    assert "into deepspeed_config" in line
    assert [*deepspeed_problems(FULL | {"deepspeed_config": zero(1)}, on)] == []
    assert [*deepspeed_problems(FULL, {"ACCELERATE_USE_DEEPSPEED": "false"})] == []


def test_what_cannot_be_read_says_so():
    with pytest.raises(DeepSpeedConfigError, match="deepspeed_config is"):
        deepspeed_settings("nowhere.json")
