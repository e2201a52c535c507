"""What a run says of itself before it starts, from its configuration."""

from types import SimpleNamespace

import pytest

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.host.settings.memory import size
from simpletuner_twinflow.host.settings.summary import block, recorded, summary

CONFIG = SimpleNamespace(
    model_type="full",
    lora_init_type="default",
    train_batch_size=8,
    gradient_accumulation_steps=1,
    use_ema=True,
    ema_decay=0.99,
)
GUIDED = TwinFlowOptions(guidance_reference="base")


def said(options=GUIDED, times=(1.0,), *, own_steps=False, **changes):
    return summary(options, SimpleNamespace(**vars(CONFIG) | changes), times, own_steps=own_steps)


def test_rows_are_named_with_their_terms_and_exact_shares():
    assert said()["trains"] == (
        "rcgm on 1/4 of the rows (one_step), real_velocity on 1/2 (near), rcgm on 1/4 (any_step); 8 rows of the data a "
        "step"
    )
    branch = GUIDED.changed(adversarial_enabled=True, enhanced_ratio=0.0, image_free=True)
    assert said(branch)["trains"] == (
        "rcgm and rectify on 1/4 of the rows (one_step), real_velocity on 1/4 (near), rcgm on 1/4 (any_step), "
        "adversarial on 1/4 (twin); 8 rows of the model's own samples a step"
    )
    assert said(train_batch_size=1)["trains"].endswith(
        "; 1 row of the data a step, so that the kinds take turns from step to step"
    )
    shares = GUIDED.changed(role_shares={"near": 1e308, "any_step": 1e308})
    assert said(shares)["trains"].startswith("real_velocity on 1/2 of the rows (near), rcgm on 1/2 (any_step)")
    assert "rcgm on 1/4 of the rows (one_step)" in said(branch.changed(rectify_weight=0.0))["trains"]
    assert "one_step" not in said(GUIDED.changed(target_step_count=2), (1.0, 0.5), own_steps=True)["trains"]


def test_auxiliary_losses_are_announced_where_the_host_makes_them():
    all_set = dict.fromkeys(("crepa_enabled", "urepa_enabled", "layersync_enabled"), True)
    assert said(model_family="sd3", **all_set)["beside"].startswith("SimpleTuner's crepa, layersync on")
    assert said(model_family="sdxl", **all_set)["beside"].startswith("SimpleTuner's urepa, layersync on")
    assert said(model_family="sd3", urepa_enabled=True)["beside"] == ""


@pytest.mark.parametrize(
    ("changes", "rows", "engine"),
    [
        ({}, "16 rows of the data a step", ""),
        ({"num_processes": 1}, "16 rows of the data a step", ""),
        ({"num_processes": "4"}, "64 rows of the data a step, 16 a process", "data-parallel (DDP), 4 processes"),
        ({"num_machines": 2}, "32 rows of the data a step, 16 a process", "data-parallel (DDP), 2 processes"),
        (
            {"num_processes": 4, "context_parallel_size": 2},
            "32 rows of the data a step, 16 a group of 2 processes",
            "data-parallel (DDP), 4 processes, 2 of them sharing each sample's tokens",
        ),
        (
            {"num_processes": 2, "context_parallel_size": 2},
            "16 rows of the data a step",
            "context parallelism, 2 processes, 2 of them sharing each sample's tokens",
        ),
        ({"fsdp_enable": True}, "16 rows of the data a step", "FSDP 2, 1 process"),
        (
            {"deepspeed_config": {"zero_optimization": {"stage": 2}}, "num_processes": 2},
            "32 rows of the data a step, 16 a process",
            "DeepSpeed, stage 2 of ZeRO, 2 processes",
        ),
    ],
)
def test_engine_and_rows_in_all_are_named(changes, rows, engine):
    found = said(gradient_accumulation_steps=2, **changes)
    assert found["trains"].endswith(f"; {rows}")
    assert found["engine"] == engine


@pytest.mark.parametrize(
    ("count", "times", "own_steps", "words"),
    [
        (1, (1.0,), False, "in 1 step, at times 1, without guidance"),
        (2, (1.0, 0.5), True, "in 2 steps by Euler steps, at times 1, 0.5, without guidance"),
        (2, (1.0, 0.6), False, "in 2 steps with fresh noise in between, at times 1, 0.6, without guidance"),
    ],
)
def test_sampler_is_named_with_its_times(count, times, own_steps, words):
    assert said(GUIDED.changed(target_step_count=count), times, own_steps=own_steps)["draws"] == words


def test_cost_is_that_of_the_kind_of_model():
    assert said()["cost"] == (
        "1.75 passes without gradient beside each row's own (guidance 0.75, rollout 1), so about 1.58 times the "
        "network's work of plain training"
    )
    assert "1.88 times" in said(model_type="lora")["cost"]


def test_student_is_named_as_its_own_teacher():
    assert said()["teacher"] == "EMA of the trained weights, decay 0.99"
    assert said(use_ema=False)["teacher"] == "the student itself: use_ema is off"


def test_recorded_numbers_are_those_that_are_said():
    assert recorded(GUIDED, CONFIG, own_steps=False) == {
        "twinflow/passes_per_row": 4.75,
        "twinflow/network_cost_ratio": 1.583,
        "twinflow/trained_guidance_scale": 2.0,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1 kB"), (1_234_567, "1.23 MB"), (4e9, "4 GB"), (2_500e9, "2.5e+03 GB")],
)
def test_sizes_are_readable(count, text):
    assert size(count) == text


def test_block_leaves_out_what_is_empty():
    assert block("head", {"one": "a", "two": "", "three": "b"}) == "head\n  one        a\n  three      b"
