"""The keys through the host's real parser: accepted, refused by name, and shown in the web UI's registry."""

import json
from pathlib import Path

import pytest
from simpletuner.helpers.configuration import cmd_args, loader
from simpletuner.helpers.training.state_tracker import StateTracker
from simpletuner.simpletuner_sdk.server.services.field_registry.registry import field_registry

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.declaration import limits
from simpletuner_twinflow.host.settings.conflict_rows import HOST_CONFLICTS
from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.options import PREFIX

SAMPLES = Path(__file__).parents[3] / "sample_configs"
SEED = json.loads((SAMPLES / "sd3-twinflow.json").read_text(encoding="utf-8"))
DIFF2FLOW = json.loads((SAMPLES / "sdxl-diff2flow-twinflow.json").read_text(encoding="utf-8"))
REQUIRED_BY_HOST = {
    "data_backend_config": "none.json",
    "optimizer": "adamw_bf16",
    "max_train_steps": 10,
    "num_train_epochs": 0,
}
LYCORIS = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1}
DOCUMENTED = {
    "enabled": False,
    "target_step_count": 1,
    "estimate_order": 2,
    "enhanced_ratio": 0.5,
    "delta_t": 0.01,
    "target_clamp": 1.0,
    "require_ema": True,
    "allow_no_ema_teacher": False,
    "allow_diff2flow": False,
    "adversarial_enabled": False,
    "adversarial_weight": 1.0,
    "rectify_weight": 1.0,
}


@pytest.fixture(autouse=True)
def configuration_folder(tmp_path, monkeypatch):
    """Where the host looks for the files that a config names."""
    (tmp_path / "lycoris.json").write_text(json.dumps(LYCORIS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StateTracker, "config_path", str(tmp_path))


def load(config: dict, **changes):
    return loader.load_config(config | REQUIRED_BY_HOST | changes)


def test_documented_quick_start_config_is_accepted_unchanged():
    config = load(SEED)
    for key, value in SEED.items():
        if value is not None and key not in ("model_type", "mixed_precision"):
            assert getattr(config, key) == value, key


def test_every_documented_key_has_its_documented_default():
    config = load({key: value for key, value in SEED.items() if not key.startswith(PREFIX)})
    assert {name: getattr(config, PREFIX + name) for name in DOCUMENTED} == DOCUMENTED


def test_config_without_the_keys_is_off():
    assert load({key: value for key, value in SEED.items() if not key.startswith(PREFIX)}).twinflow_enabled is False


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_sample_configs_pass_the_hosts_parser(path):
    given = json.loads(path.read_text(encoding="utf-8"))
    arguments = [
        f"--{key}={json.dumps(value) if isinstance(value, bool) else value}"
        for key, value in given.items()
        if value is not None
    ]
    config = cmd_args.parse_cmdline_args(arguments + [f"--{key}={value}" for key, value in REQUIRED_BY_HOST.items()])
    assert {key: getattr(config, key) for key in given if key.startswith(PREFIX)} == {
        key: value for key, value in given.items() if key.startswith(PREFIX)
    }


OUT_OF_RANGE = [
    ("target_step_count", 0, "1 to 8"),
    ("target_step_count", 50, "1 to 8"),
    ("estimate_order", 0, "1 to 8"),
    ("enhanced_ratio", -0.5, "0 to below 1"),
    ("enhanced_ratio", 1.0, "1 / (1 - ratio)"),
    ("delta_t", 0.0, "0.0001 to 0.5"),
    ("target_clamp", 0.0, "0.001 to 100"),
    ("adversarial_weight", -1.0, "0 to 100"),
    ("rectify_weight", "nan", "0 to 100"),
    ("trajectory_interval", -1, "0 to 1000000"),
    ("enhanced_range", [0.8, 0.2], "[low, high]"),
    ("role_shares", {"onestep": 1}, "one_step, near, any_step, twin"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), OUT_OF_RANGE)
def test_value_out_of_range_is_refused_in_one_line(name, value, allowed):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(SEED, **{PREFIX + name: value})
    message = str(refusal.value)
    shown = json.dumps(value) if isinstance(value, list | dict) else str(value)
    for words in (PREFIX + name, shown, allowed, "Set it to"):
        assert words in message
    assert "\n" not in message


CONFLICTS = [
    ({"distillation_method": "lcm"}, ["distillation_method", "lcm", "null"]),
    ({"scheduled_sampling_max_step_offset": 2}, ["scheduled_sampling_max_step_offset", "2", "set it to 0"]),
    ({"use_ema": False}, ["use_ema", "twinflow_allow_no_ema_teacher", "twinflow_require_ema"]),
    ({"controlnet": True}, ["controlnet", "true", "set controlnet to false"]),
    ({"mixflow_enabled": True}, ["mixflow_enabled", "set it to false"]),
    ({"diffusion_blocks_config": '{"num_blocks": 2}'}, ["diffusion_blocks_config", "remove it"]),
    ({"xm_enabled": True}, ["xm_enabled", "set xm_enabled to false"]),
    ({"crepa_self_flow": True}, ["crepa_self_flow", "set it to false"]),
    ({"crepa_feature_source": "self_flow"}, ["crepa_feature_source", "encoder"]),
    ({"crepa_enabled": True}, ["crepa_enabled", "set crepa_enabled to false"]),
    ({"layersync_enabled": True}, ["layersync_enabled", "set layersync_enabled to false"]),
    ({"loss_type": "huber"}, ["loss_type", "huber", "l2"]),
    ({"input_perturbation": 0.1}, ["input_perturbation", "0.1", "set it to 0"]),
    ({"flow_custom_timesteps": "0.5,0.9"}, ["flow_custom_timesteps", "0.5,0.9", "remove it"]),
    ({"flux_fast_schedule": True}, ["flux_fast_schedule", "set it to false"]),
    ({"tread_config": '{"routes": []}'}, ["tread_config", "remove it"]),
    ({"lora_type": "lycoris", "lycoris_config": "lycoris.json"}, ["lora_type", "lycoris", "standard"]),
    ({"snr_weight": 2.0}, ["snr_weight", "2.0", "learning_rate"]),
    ({"hidream_use_load_balancing_loss": True}, ["hidream_use_load_balancing_loss", "set it to false"]),
    ({"hidream_load_balancing_loss_weight": 0.01}, ["hidream_load_balancing_loss_weight", "0.01", "remove it"]),
    ({"peft_lora_mode": "singlora"}, ["peft_lora_mode", "singlora", "standard"]),
    (
        {"model_type": "full", "base_model_precision": "int8-quanto"},
        ["base_model_precision", "int8-quanto", "no_change", "LoRA"],
    ),
    ({"fsdp_enable": True}, ["fsdp_enable", "without FSDP"]),
    ({"deepspeed_config": "ds.json"}, ["deepspeed_config", "without DeepSpeed"]),
    ({"scheduled_sampling_reflexflow": True}, ["scheduled_sampling_reflexflow", "set it to false"]),
    ({"urepa_enabled": True}, ["urepa_enabled", "set urepa_enabled to false"]),
    ({"irepa_enabled": True}, ["irepa_enabled", "set irepa_enabled to false"]),
    ({"nextlat_enabled": True}, ["nextlat_enabled", "set nextlat_enabled to false"]),
    ({"internal_guidance_enabled": True}, ["internal_guidance_enabled", "set internal_guidance_enabled to false"]),
    ({"train_text_encoder": True}, ["train_text_encoder", "set train_text_encoder to false"]),
    ({"context_parallel_size": 2}, ["context_parallel_size", "2", "set it to 1"]),
    ({"musubi_blocks_to_swap": 4}, ["musubi_blocks_to_swap", "4", "set it to 0"]),
    ({"model_family": "anima"}, ["model_family", "anima", "sd3"]),
    ({"model_family": "sdxl"}, ["prediction_type", "diff2flow_enabled", "twinflow_allow_diff2flow"]),
    ({"model_family": "sdxl", "diff2flow_enabled": True}, ["diff2flow_enabled", "twinflow_allow_diff2flow"]),
]


@pytest.mark.parametrize(
    ("changes", "words"), CONFLICTS, ids=lambda value: "+".join(value) if isinstance(value, dict) else ""
)
def test_conflict_is_refused_in_one_line_that_names_key_value_and_way_out(changes, words):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(SEED, **changes)
    message = str(refusal.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_every_row_of_the_table_of_conflicts_is_tried_here():
    tried = {key for changes, _ in CONFLICTS for key in changes} | {"ramtorch"}
    assert {conflict.key for conflict in HOST_CONFLICTS} <= tried


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"caption_dropout_probability": 0.0}, True),
        ({"caption_dropout_probability": 0.1}, False),
        ({"caption_dropout_probability": 0.0, "twinflow_enhanced_ratio": 0.0}, False),
        ({"caption_dropout_probability": 0.0, "twinflow_enabled": False}, False),
    ],
)
def test_guidance_against_an_untrained_empty_prompt_is_warned_of(changes, warned, caplog):
    load(SEED, **changes)
    assert ("caption_dropout_probability 0:" in caplog.text) == warned


def test_adapter_on_a_quantised_base_is_accepted():
    assert load(SEED, base_model_precision="int8-quanto").twinflow_enabled


def test_ramtorch_is_refused_too():
    """Asked of the check itself: without a GPU the host's parser refuses the key before it comes to that."""
    config = load(SEED)
    [problem] = conflicts(vars(config) | {"ramtorch": True}, TwinFlowOptions.from_mapping(vars(config)))
    assert "set ramtorch to false" in problem


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharding_that_an_accelerate_config_switches_on_is_refused(plugin, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", "true")
    with pytest.raises(TwinFlowConfigError, match=rf"ACCELERATE_USE_{plugin} is .*in the accelerate config"):
        load(SEED)
    assert load(SEED, twinflow_implementation="host").twinflow_enabled
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", "false")
    assert load(SEED).twinflow_enabled


@pytest.mark.parametrize(
    ("strategy", "refused"), [("range", True), ("earlier", False), ("later", False), ("none", False)]
)
def test_epsilon_model_needs_times_from_the_whole_path(strategy, refused):
    if not refused:
        assert load(DIFF2FLOW, timestep_bias_strategy=strategy).twinflow_enabled
        return
    with pytest.raises(TwinFlowConfigError, match=r'timestep_bias_strategy is "range".*use "earlier"'):
        load(DIFF2FLOW, timestep_bias_strategy=strategy)


def test_conflicts_have_a_message_each():
    messages = set()
    for changes, _ in CONFLICTS:
        with pytest.raises(TwinFlowConfigError) as refusal:
            load(SEED, **changes)
        messages.add(str(refusal.value))
    assert len(messages) == len(CONFLICTS)


@pytest.mark.parametrize("changes", [changes for changes, _ in CONFLICTS], ids="+".join)
def test_nothing_is_refused_while_twinflow_is_off(changes):
    assert load(SEED, **changes, twinflow_enabled=False).twinflow_enabled is False


@pytest.mark.parametrize(
    "accepted", [{"twinflow_allow_no_ema_teacher": True}, {"twinflow_require_ema": False}], ids="+".join
)
def test_student_as_teacher_is_accepted_when_asked_for(accepted):
    assert load(SEED, use_ema=False, **accepted).use_ema is False


@pytest.mark.parametrize(
    "dataset",
    [{"is_regularisation_data": True}, {"conditioning_type": "mask"}, {"slider_strength": -1.0}],
    ids="+".join,
)
def test_dataset_that_cannot_be_honoured_is_refused_by_name(dataset, tmp_path):
    backend = tmp_path / "multidatabackend.json"
    backend.write_text(json.dumps([{"id": "cats", "type": "local"} | dataset]), encoding="utf-8")
    with pytest.raises(TwinFlowConfigError, match=r"cats") as refusal:
        load(SEED, data_backend_config=str(backend))
    assert next(iter(dataset)) in str(refusal.value)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("twinflow_step_count", "twinflow_target_step_count"),
        ("twinflow_e", "twinflow_enabled"),
        ("twinflow_delta", "twinflow_delta_t"),
    ],
)
def test_misspelt_key_is_named_with_the_nearest_right_one(misspelt, meant):
    with pytest.raises(TwinFlowConfigError, match=rf"{misspelt} is not a TwinFlow key; did you mean \w+"):
        load(SEED, **{misspelt: 2})


def test_lists_and_objects_pass_the_hosts_parser():
    given = {"twinflow_enhanced_range": [0.2, 0.8], "twinflow_role_shares": {"near": 1, "one_step": 3}}
    options = TwinFlowOptions.from_mapping(vars(load(SEED, **given)))
    assert options.enhanced_range == (0.2, 0.8)
    assert options.role_shares == given["twinflow_role_shares"]


def test_every_key_is_in_the_registry_that_feeds_the_web_ui():
    for name in TwinFlowOptions.names():
        field, info = field_registry.get_field(PREFIX + name), TwinFlowOptions.info(name)
        default, own = field.default_value, TwinFlowOptions.model_fields[name].default
        assert default == own or json.loads(default) == list(own)
        assert field.ui_label == info.label
        assert field.help_text
        low, high, _ = limits(TwinFlowOptions.model_fields[name])
        assert {rule.value for rule in field.validation_rules} == {low, high} - {None}
        if name != "enabled":
            assert {dependency.field for dependency in field.dependencies} == set(info.requires)
