"""What of the host's families cannot be trained is refused when a run starts, by name and with the reason."""

from types import SimpleNamespace

import pytest
from simpletuner.helpers.models.registry import ModelRegistry

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.settings.assistants import ASSISTED
from simpletuner_twinflow.host.settings.families import (
    DIFFUSION_FAMILIES,
    FAMILIES,
    REFUSED,
    predicts_flow,
    unsupported_reason,
)
from simpletuner_twinflow.host.settings.given import ASSISTANT_LEFT_OUT
from testbed.host_models.build import host_config
from testbed.host_models.flow import host_model
from testbed.host_models.zoo import ZOO, family_of

pytestmark = pytest.mark.usefixtures("in_folder")
VALUES = [
    ("flux", "flux_guidance_mode", "random-range", "constant"),
    ("wan", "model_flavour", "i2v-14b-2.2-high", "one network"),
    ("wan", "model_flavour", "i2v-14b-2.2-low", "one network"),
    ("wan", "model_flavour", "animegen-t2v-high", "one network"),
    ("omnigen", "model_type", "lora", "full"),
    ("cosmos3", "model_type", "full", "lycoris"),
    ("ace_step", "model_flavour", "v15-base", "ACE-Step 1"),
    ("ace_step", "model_type", "full", "lora"),
    ("ace_step", "pretrained_model_name_or_path", "ACE-Step/Ace-Step1.5", "use ACE-Step 1"),
    ("ace_step", "pretrained_model_name_or_path", "models/acestep-v15-base", "use ACE-Step 1"),
    ("minimaxmusic", "minimax_music_train_component", "language_model", "transformer"),
    ("minimaxmusic", "model_type", "full", "lora"),
    ("minimaxmusic", "twinflow_time_conditioning", "signed_time", "training_only"),
    ("omnigen", "twinflow_time_conditioning", "signed_time", "training_only"),
    ("zlab_i1", "twinflow_time_conditioning", "signed_time", "training_only"),
    ("ideogram", "model_type", "full", "lora"),
]
STEPS_ITSELF = sorted(name for name, family in FAMILIES.items() if family.stepped_by != "scheduler")
UNTRAINED_TIME = {"twinflow_time_conditioning": "none", "twinflow_adversarial_enabled": False}


def test_every_flow_family_of_the_host_is_trained_or_refused_for_a_reason():
    flow = {
        name for name, family in ModelRegistry.model_families().items() if family.PREDICTION_TYPE.is_flow_prediction
    }
    assert flow - REFUSED.keys() == FAMILIES.keys()
    shown = {family_of(name) for name in ZOO}
    proven = {name for name in FAMILIES if name.replace("-", "_") in shown}
    assert proven == FAMILIES.keys(), "every family that is trained is in the shared suite"
    assert not REFUSED.keys() & (FAMILIES.keys() | DIFFUSION_FAMILIES.keys())


@pytest.mark.parametrize("family", [name for name in REFUSED if name not in ("cosmos", "heartmula")])
def test_refused_family_is_named_with_its_reason(family, folder):
    with pytest.raises(TwinFlowConfigError) as refusal:
        host_config(family, folder)
    assert f"model_family is '{family}'" in str(refusal.value)
    assert REFUSED[family] in str(refusal.value)


def test_family_model_of_pixart_is_refused_since_the_host_would_not_save_it(folder):
    with pytest.raises(TwinFlowConfigError, match=r"model_type is 'lora' with model_family 'pixart'.*\"full\""):
        host_config("pixart", folder, model_type="lora", diff2flow_enabled=True, twinflow_allow_diff2flow=True)


@pytest.mark.parametrize("lora_type", ["standard", None])
def test_adapter_of_cosmos3_that_the_host_cannot_save_is_refused_and_a_lycoris_is_not(lora_type, folder):
    given = {} if lora_type is None else {"lora_type": lora_type}
    with pytest.raises(TwinFlowConfigError, match=r"lora_type is .* with model_family 'cosmos3'.*\"lycoris\""):
        host_config("cosmos3", folder, model_type="lora", **given)
    host_config("cosmos3", folder, **ZOO["cosmos3"].config)
    written = {"model_family": "cosmos3"}  # as a config's user leaves the host's defaults
    assert "model_type is None" in (unsupported_reason(written, flow=True) or "")
    assert "lora_type is None" in (unsupported_reason(written | {"model_type": "lora"}, flow=True) or "")


@pytest.mark.parametrize(("family", "key", "value", "way_out"), VALUES)
def test_value_that_a_family_cannot_be_trained_with_is_refused(family, key, value, way_out, folder):
    with pytest.raises(TwinFlowConfigError) as refusal:
        host_config(family, folder, **{key: value})
    for words in (f"{key} is '{value}'", family, way_out):
        assert words in str(refusal.value)


@pytest.mark.parametrize("family", STEPS_ITSELF)
def test_several_steps_with_fresh_noise_are_refused_of_a_pipeline_that_steps_by_itself(family, folder):
    given, several = ZOO[family].config, {"twinflow_target_step_count": 2}
    with pytest.raises(TwinFlowConfigError, match=f"twinflow_target_step_count is 2 .*{family}.*training_only"):
        host_config(family, folder, **given | several | UNTRAINED_TIME)
    host_config(family, folder, **given | several)
    host_config(family, folder, **given | UNTRAINED_TIME)
    host_config("sd3", folder, **several | UNTRAINED_TIME)


@pytest.mark.parametrize("mode", ["signed_time", "none"])
def test_network_that_knows_a_target_time_is_refused_where_none_is_trained(mode, folder):
    given = {"twinflow_time_conditioning": mode, "twinflow_adversarial_enabled": mode != "none"}
    with pytest.raises(TwinFlowConfigError, match=f"twinflow_time_conditioning is '{mode}' .*its pipeline gives it"):
        host_config("flux3_image", folder, model_flavour="klein", **given)
    host_config("flux3_image", folder, model_flavour="klein-base", **given)
    host_config("flux3_image", folder, model_flavour="klein")


@pytest.mark.parametrize("written", [True, "true"])
def test_averages_of_i1_that_the_host_cannot_save_are_refused_in_a_full_fine_tune(written, folder):
    given = {"model_family": "zlab_i1", "use_ema": written}
    assert "use_ema is" in (unsupported_reason(given, flow=True) or "")
    assert unsupported_reason(given | {"model_type": "lora"}, flow=True) is None
    assert unsupported_reason(given | {"use_ema": False}, flow=True) is None


def test_lycoris_of_ideogram_is_refused_and_an_adapter_is_not(folder):
    with pytest.raises(TwinFlowConfigError, match=r"lora_type is 'lycoris' with model_family 'ideogram'.*\"standard\""):
        host_config("ideogram", folder, model_type="lora", lora_type="lycoris")
    host_config("ideogram", folder, model_type="lora")


@pytest.mark.parametrize("family", [*FAMILIES, *DIFFUSION_FAMILIES])
def test_flavours_with_an_assistant_are_those_of_the_hosts_class(family):
    hosts = ModelRegistry.model_families()[family]
    by_flavour = getattr(hosts, "ASSISTANT_LORA_PATHS", {})
    paths = {
        flavour: by_flavour.get(flavour) or hosts.ASSISTANT_LORA_PATH or None
        for flavour in hosts.HUGGINGFACE_PATHS
        if hosts.supports_assistant_lora(SimpleNamespace(model_flavour=flavour))
    }
    assert paths == dict(ASSISTED[family].paths if family in ASSISTED else {})
    if family in ASSISTED:
        assert ASSISTED[family].default_flavour == hosts.DEFAULT_MODEL_FLAVOUR


@pytest.mark.parametrize("family", ["z_image", "qwen_image"])
def test_assistant_that_is_off_in_drawing_is_left_out_in_default_flavours_and_said_once(family, folder, caplog):
    """Also under a path of the user's, and not where it is disabled or has no part in the run."""
    default = {"model_type": "lora", "pretrained_model_name_or_path": None}
    flavoured = {"model_type": "lora", "model_flavour": ModelRegistry.model_families()[family].DEFAULT_MODEL_FLAVOUR}

    def left_out(**changes):
        caplog.clear()
        config = host_config(family, folder, **changes)
        said = caplog.text.count(ASSISTANT_LEFT_OUT)
        assert said <= 1
        return config.disable_assistant_lora, bool(said)

    assert left_out(**default) == (True, True)
    assert left_out(**flavoured, assistant_lora_path="mine") == (True, True)
    assert left_out(**flavoured, disable_assistant_lora=False) == (True, True)
    assert left_out(**flavoured, disable_assistant_lora=True) == (True, False)
    assert left_out(**flavoured | {"model_type": "full"}) == (False, False)
    assert left_out(**flavoured, twinflow_enabled=False) == (False, False)
    assert left_out(**flavoured, twinflow_implementation="host") == (False, False)
    assert left_out(**default | {"model_flavour": {"z_image": "base"}.get(family, "v1.0")}) == (False, False)


def test_way_out_of_schnell_is_one_that_the_hosts_model_takes(folder):
    slow = {"model_flavour": "schnell", "flux_fast_schedule": False, "disable_assistant_lora": True}
    with pytest.raises(SystemExit):
        host_model("flux", folder, **slow, twinflow_enabled=False)
    model = host_model("flux", folder, **slow, i_know_what_i_am_doing=True)
    assert model.config.twinflow_enabled
    assert model.config.model_flavour == "schnell"


@pytest.mark.parametrize("family", [*FAMILIES, *DIFFUSION_FAMILIES])
def test_what_a_family_predicts_is_what_the_hosts_class_says(family):
    hosts = ModelRegistry.model_families()[family]
    assert predicts_flow({"model_family": family}) == hosts.PREDICTION_TYPE.is_flow_prediction
