"""What TwinFlow cannot be combined with is refused through the host's real parser, a line each."""

import json

import pytest

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.host.settings.conflict_rows import HOST_CONFLICTS, SHARDED_CONFLICTS
from simpletuner_twinflow.host.settings.conflicts import conflicts
from tests.host.settings.configs import DIFF2FLOW, SEED, load

pytestmark = pytest.mark.usefixtures("configuration_folder")
FSDP2 = {"fsdp_enable": True, "fsdp_version": 2, "validation_disable": True}
UNET = {
    "model_family": "sdxl",
    "prediction_type": "epsilon",
    "diff2flow_enabled": True,
    "twinflow_allow_diff2flow": True,
}
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
    (
        {"model_type": "full", "crepa_enabled": True},
        ["crepa_enabled", "cannot save the EMA", "set crepa_enabled to false"],
    ),
    (
        {"crepa_enabled": True, "twinflow_image_free": True, "twinflow_adversarial_enabled": True},
        ["crepa_enabled", "true", "twinflow_image_free", "which such a run does not train on"],
    ),
    ({"loss_type": "huber"}, ["loss_type", "huber", "l2"]),
    ({"input_perturbation": 0.1}, ["input_perturbation", "0.1", "set it to 0"]),
    ({"flow_custom_timesteps": "0.5,0.9"}, ["flow_custom_timesteps", "0.5,0.9", "remove it"]),
    ({"flux_fast_schedule": True}, ["flux_fast_schedule", "set it to false"]),
    ({"snr_weight": 2.0}, ["snr_weight", "2.0", "learning_rate"]),
    ({"peft_lora_mode": "singlora"}, ["peft_lora_mode", "singlora", "standard"]),
    (
        {"model_type": "full", "base_model_precision": "int8-quanto"},
        ["base_model_precision", "int8-quanto", "no_change", "LoRA"],
    ),
    ({"fsdp_enable": True}, ["validation_disable", "on one rank alone", "set it to true"]),
    (FSDP2 | {"fsdp_version": 1}, ["fsdp_version", "1", "cannot start FSDP 1", "set fsdp_version to 2"]),
    (FSDP2 | {"eval_steps_interval": 10}, ["eval_steps_interval", "10", "remove it"]),
    (FSDP2 | {"fsdp_cpu_offload": True}, ["fsdp_cpu_offload", "set it to false"]),
    (FSDP2 | {"crepa_enabled": True}, ["crepa_enabled", "its projector", "set it to false"]),
    (FSDP2 | UNET | {"urepa_enabled": True}, ["urepa_enabled", "its projector", "set it to false"]),
    (
        UNET | {"model_type": "full", "urepa_enabled": True},
        ["urepa_enabled", "cannot save the EMA", "set urepa_enabled to false"],
    ),
    (FSDP2 | {"tread_config": '{"routes": []}'}, ["tread_config", "FSDP", "remove it"]),
    (FSDP2 | {"musubi_blocks_to_swap": 2}, ["musubi_blocks_to_swap", "2", "FSDP", "set it to 0"]),
    (
        {"model_type": "full", "validation_disable": True, "deepspeed_config": '{"zero_optimization": {"stage": 3}}'},
        ["zero_optimization.stage", "3", "stage 1 or 2"],
    ),
    ({"scheduled_sampling_reflexflow": True}, ["scheduled_sampling_reflexflow", "set it to false"]),
    ({"nextlat_enabled": True}, ["nextlat_enabled", "set nextlat_enabled to false"]),
    ({"internal_guidance_enabled": True}, ["internal_guidance_enabled", "set internal_guidance_enabled to false"]),
    ({"train_text_encoder": True}, ["train_text_encoder", "set train_text_encoder to false"]),
    ({"model_type": "full", "musubi_blocks_to_swap": 4}, ["musubi_blocks_to_swap", "4", "set it to 0", "LoRA"]),
    ({"model_family": "infinitetalk"}, ["model_family", "infinitetalk", "sd3"]),
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
    assert {conflict.key for conflict in (*HOST_CONFLICTS, *SHARDED_CONFLICTS)} <= tried | {
        "validation_disable",
        "lora_type",
    }


@pytest.mark.parametrize(
    ("config", "left_out", "made"),
    [(SEED, "urepa_enabled", "crepa_enabled"), (DIFF2FLOW, "crepa_enabled", "urepa_enabled")],
)
@pytest.mark.parametrize(
    "changes", [{"model_type": "full"}, FSDP2, {"twinflow_image_free": True, "twinflow_adversarial_enabled": True}]
)
def test_auxiliary_loss_that_the_host_leaves_out_excludes_nothing(config, left_out, made, changes):
    config = vars(load(config)) | changes
    options = TwinFlowOptions.from_mapping(config)
    assert [*conflicts(config | {left_out: True}, options)] == []
    [line] = conflicts(config | {left_out: True, made: True}, options)
    assert line.startswith(made)


def test_adapter_on_a_quantised_base_is_accepted():
    assert load(SEED, base_model_precision="int8-quanto").twinflow_enabled


def test_ramtorch_is_refused_for_a_full_fine_tune_alone():
    """Asked of the check itself: without a GPU the host's parser refuses the key before it comes to that."""
    config = vars(load(SEED)) | {"ramtorch": True}
    options = TwinFlowOptions.from_mapping(config)
    assert [*conflicts(config, options)] == []
    [problem] = conflicts(config | {"model_type": "full"}, options)
    assert "set ramtorch to false, or train a LoRA" in problem


@pytest.mark.parametrize("model_type", ["lora", "full"])
def test_fsdp2_is_accepted(model_type, monkeypatch):
    assert load(SEED, model_type=model_type, **FSDP2).twinflow_enabled
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert load(SEED, model_type=model_type, **FSDP2).twinflow_enabled


def test_regularisation_set_under_fsdp2_is_refused(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([{"id": "kept", "is_regularisation_data": True}, {"id": "mine"}]), encoding="utf-8")
    assert load(SEED, data_backend_config=str(file)).twinflow_enabled
    with pytest.raises(TwinFlowConfigError, match=r"is_regularisation_data is true.*FSDP.*'kept'"):
        load(SEED, **FSDP2, data_backend_config=str(file))


def test_lycoris_under_fsdp2_is_refused():
    config = vars(load(SEED)) | FSDP2 | {"lora_type": "lycoris"}
    problems = [*conflicts(config, TwinFlowOptions.from_mapping(config))]
    assert [problem for problem in problems if problem.startswith('lora_type is "lycoris"') and "FSDP" in problem]


@pytest.mark.parametrize("way", ["CP", "TP", "SP"])
def test_sharing_that_an_accelerate_config_switches_on_is_refused(way, monkeypatch):
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{way}_SIZE", "2")
    with pytest.raises(TwinFlowConfigError, match=rf"PARALLELISM_CONFIG_{way}_SIZE is .*context_parallel_size"):
        load(SEED)
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{way}_SIZE", "1")
    assert load(SEED).twinflow_enabled


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharding_that_an_accelerate_config_switches_on_is_refused(plugin, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", "true")
    with pytest.raises(TwinFlowConfigError, match=rf"ACCELERATE_USE_{plugin} is .*plain data-parallel training"):
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


def test_epsilon_model_has_no_rows_of_a_samplers_steps():
    asked = {"twinflow_target_step_count": 2, "twinflow_role_shares": {"near": 1, "sampler_step": 1}}
    with pytest.raises(TwinFlowConfigError, match=r'gives sampler_step 1 while model_family is "sdxl".* to one_step'):
        load(DIFF2FLOW, **asked)
    assert load(DIFF2FLOW, **asked, twinflow_implementation="host").twinflow_enabled
    assert load(SEED, **asked).twinflow_role_shares


def test_a_run_of_several_steps_trains_them():
    asked = {"twinflow_role_shares": {"near": 1, "one_step": 1}}
    with pytest.raises(TwinFlowConfigError, match=r"gives sampler_step nothing while twinflow_target_step_count is 2"):
        load(SEED, **asked, twinflow_target_step_count=2)
    for accepted in ({"twinflow_target_step_count": 1}, {"twinflow_time_conditioning": "signed_time"}):
        assert load(SEED, **asked, **{"twinflow_target_step_count": 2} | accepted).twinflow_role_shares
    assert load(SEED, **asked, twinflow_target_step_count=2, twinflow_implementation="host").twinflow_enabled
    assert load(DIFF2FLOW, **asked, twinflow_target_step_count=2).twinflow_role_shares


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


@pytest.mark.parametrize("dataset", [{"slider_strength": -1.0}], ids="+".join)
def test_dataset_that_cannot_be_honoured_is_refused_by_name(dataset, tmp_path):
    backend = tmp_path / "multidatabackend.json"
    backend.write_text(json.dumps([{"id": "cats", "type": "local"} | dataset]), encoding="utf-8")
    with pytest.raises(TwinFlowConfigError, match=r"cats") as refusal:
        load(SEED, data_backend_config=str(backend))
    assert next(iter(dataset)) in str(refusal.value)


SOUND = [
    ({"dataset_type": "audio"}, "remove the dataset"),
    ({"dataset_type": "video", "audio": {"channels": 1}}, "auto_split"),
    ({"dataset_type": "video", "audio": {"auto_split": True}}, "auto_split"),
    ({"dataset_type": "video", "s2v_datasets": "songs"}, "remove it"),
]


@pytest.mark.parametrize(("dataset", "way_out"), SOUND)
def test_sound_of_a_family_that_makes_pictures_and_sound_is_refused_and_of_others_left_to_the_host(
    dataset, way_out, tmp_path
):
    backend = tmp_path / "multidatabackend.json"
    backend.write_text(json.dumps([{"id": "clips", "type": "local"} | dataset]), encoding="utf-8")
    run = {"data_backend_config": str(backend)}
    with pytest.raises(TwinFlowConfigError, match="not its sound") as refusal:
        load(SEED, model_family="cosmos3", **run)
    assert list(dataset)[-1] in str(refusal.value)
    assert way_out in str(refusal.value)
    load(SEED, **run)


def test_silent_films_are_not_refused(tmp_path):
    backend = tmp_path / "multidatabackend.json"
    silent = {"id": "clips", "type": "local", "dataset_type": "video", "audio": {"auto_split": False}}
    backend.write_text(json.dumps([silent]), encoding="utf-8")
    with pytest.raises(TwinFlowConfigError, match="lora_type") as refusal:  # for another reason
        load(SEED, model_family="cosmos3", data_backend_config=str(backend))
    assert "sound" not in str(refusal.value)
