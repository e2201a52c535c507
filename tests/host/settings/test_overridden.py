"""What a TwinFlow run overrides is said once when it starts, by the first rank."""

import logging

import pytest

from simpletuner_twinflow.host.settings import fields as host_config
from tests.host.settings.configs import SEED, load

pytestmark = pytest.mark.usefixtures("configuration_folder")
QUIET = {"validation_guidance": 0.0, "validation_num_inference_steps": 2}


@pytest.fixture(autouse=True)
def first_rank(monkeypatch):
    """As a run without a launcher has it."""
    monkeypatch.delenv("RANK", raising=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation_guidance": 7.5}, ["validation_guidance 7.5", "2 steps without guidance"]),
        ({"validation_guidance_real": 3.0}, ["validation_guidance_real 3.0"]),
        ({"validation_guidance_rescale": 0.7}, ["validation_guidance_rescale 0.7"]),
        ({"validation_num_inference_steps": 30}, ["validation_num_inference_steps 30"]),
        ({"twinflow_target_step_count": 1}, ["1 step without guidance", "validation_num_inference_steps 2"]),
        ({"validation_noise_scheduler": "euler"}, ['validation_noise_scheduler "euler"']),
        ({"inference_scheduler_timestep_spacing": "linspace"}, ['inference_scheduler_timestep_spacing "linspace"']),
        ({"ema_decay": 1.5}, ["ema_decay is 1.5", "(1 + step) / (10 + step)", "between 0 and 1"]),
        ({"ema_decay": -0.5}, ["ema_decay is -0.5", "no average"]),
        ({"ema_decay": 1.5, "ema_warmup_steps": 5}, ["ema_decay is 1.5", "will diverge"]),
        ({"ema_update_interval": 10}, ["ema_update_interval is 10", "Set it to 1"]),
        (
            {
                "model_type": "full",
                "deepspeed_config": '{"zero_optimization": {"stage": 2}}',
                "max_grad_norm": 0.5,
                "validation_disable": True,
            },
            [
                "deepspeed_config is set",
                "gradient_clipping in it is 0",
                "max_grad_norm 0.5",
                "optimizer",
                "DeepSpeed's",
            ],
        ),
        (
            {"twinflow_time_sampling": "uniform", "flow_schedule_shift": 1.5, "flow_use_beta_schedule": True},
            ['twinflow_time_sampling is "uniform"', "flow_use_beta_schedule true", "flow_schedule_shift 1.5"],
        ),
        (
            {"model_family": "minimaxmusic", "ema_validation": "ema_only"},
            ["twinflow_quality_sheet is 4: without effect", "songs"],
        ),
        (
            {"model_family": "minimaxmusic", "twinflow_quality_sheet": 0},
            ['ema_validation is "comparison"', '"ema_only"'],
        ),
        (
            {"model_family": "ace_step", "twinflow_quality_sheet": 0, "ema_validation": "none"},
            ["MERT and mHuBERT are left out"],
        ),
        ({"diff2flow_loss": True}, ["diff2flow_loss is true: without effect"]),
        ({"hidream_use_load_balancing_loss": True}, ["hidream_use_load_balancing_loss is true: without effect"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_override_is_named_once_with_its_value(changes, words, caplog):
    load(SEED, **QUIET | changes)
    [line] = [record.message for record in caplog.records if record.name == "simpletuner_twinflow"]
    for word in words:
        assert word in line
    assert "\n" not in line


def test_all_overrides_of_the_validation_are_one_line(caplog):
    load(SEED, validation_guidance=7.5, validation_num_inference_steps=30)
    [line] = [record.message for record in caplog.records if record.name == "simpletuner_twinflow"]
    assert "Overridden: validation_guidance 7.5, validation_num_inference_steps 30." in line


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"validation_guidance": 1.0},
        {"validation_guidance": 7.5, "validation_disable": True},
        {"twinflow_time_sampling": "uniform"},
        {"flow_schedule_shift": 1.5},
        {"ema_decay": 1.0},
        {"ema_decay": 0.0},
        {"model_family": "minimaxmusic", "twinflow_quality_sheet": 0, "ema_validation": "ema_only"},
        {"twinflow_enabled": False, "ema_decay": 1.5},
        {"twinflow_implementation": "host", "ema_decay": 1.5},
        {"use_ema": False, "twinflow_require_ema": False, "ema_update_interval": 10},
    ],
    ids="+".join,
)
def test_nothing_is_said_where_nothing_is_overridden(changes, caplog):
    load(SEED, **QUIET | changes)
    assert not [record for record in caplog.records if record.name == "simpletuner_twinflow"]


def test_other_ranks_say_nothing(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    load(SEED, validation_guidance=7.5)
    assert not [record for record in caplog.records if record.name == "simpletuner_twinflow"]


@pytest.mark.parametrize(("rank", "waits"), [(None, []), ("0", []), ("1", [host_config.PATIENCE])])
def test_refusal_of_another_rank_waits_for_that_of_the_first(rank, waits, monkeypatch):
    waited = []
    monkeypatch.setattr(host_config.time, "sleep", waited.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    host_config.let_the_first_rank_speak()
    assert waited == waits
    assert logging.getLogger("simpletuner_twinflow").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, True),
        ({"caption_dropout_probability": 0.1}, False),
        ({"twinflow_enhanced_ratio": 0.0}, False),
        ({"twinflow_guidance_reference": "base"}, False),
        ({"twinflow_guidance_reference": "auto"}, False),
        ({"twinflow_enabled": False}, False),
    ],
)
def test_guidance_against_an_untrained_empty_prompt_is_warned_of(changes, warned, caplog):
    load(SEED, **{"caption_dropout_probability": 0.0, "twinflow_guidance_reference": "ema"} | changes)
    assert ("caption_dropout_probability 0:" in caplog.text) == warned


@pytest.mark.parametrize(
    ("changes", "warned"), [({}, True), ({"twinflow_enhanced_ratio": 0.0}, False)], ids=["guided", "not guided"]
)
def test_guidance_of_rows_without_prompts_is_warned_of(changes, warned, caplog):
    load(SEED, **QUIET | {"caption_dropout_probability": 1.0} | changes)
    assert ("caption_dropout_probability is 1.0: no row keeps its prompt" in caplog.text) == warned
