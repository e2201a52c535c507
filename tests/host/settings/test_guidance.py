"""Guidance in a configuration: given once, its reference settled, and said when the run starts."""

from types import SimpleNamespace

import pytest
from simpletuner.simpletuner_sdk.server.services.training_service import get_all_field_defaults

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowOptions
from simpletuner_twinflow.host.settings.guidance import AUTO, described, settled
from tests.host.settings.configs import SEED, load

OFF = {key: value for key, value in SEED.items() if not key.startswith("twinflow_")}


def refusal(config, **changes):
    with pytest.raises(TwinFlowConfigError) as refused:
        load(config, **changes)
    [problem] = refused.value.problems
    return problem


@pytest.mark.parametrize("model_type", ["lora", "full"])
def test_auto_is_settled_by_the_model_type_and_a_users_choice_is_kept(model_type):
    assert settled(TwinFlowOptions(), model_type).guidance_reference == AUTO[model_type]
    for reference in ("base", "ema"):
        chosen = TwinFlowOptions(guidance_reference=reference, guidance_scale=3)
        assert settled(chosen, model_type) == chosen


def test_settling_changes_nothing_else():
    options = TwinFlowOptions(guidance_scale=3, enhanced_range=(0.1, 0.9), role_shares={"near": 1})
    assert settled(options, "lora") == options.changed(guidance_reference=AUTO["lora"])


@pytest.mark.parametrize(
    ("given", "model_type", "init", "line"),
    [
        (
            {"guidance_reference": "base"},
            "lora",
            "default",
            "scale 2 (twinflow_enhanced_ratio 0.5), against the frozen base (adapter switched off), in the velocity",
        ),
        (
            {"guidance_reference": "base", "guidance_scale": 3.5, "guidance_target": "both"},
            "lora",
            "pissa",
            "scale 3.5, against the frozen base (adapter as it was made), in the velocity and in rectify",
        ),
        (
            {"guidance_reference": "base", "guidance_scale": 3, "guidance_target": "rectify"},
            "full",
            "default",
            "scale 3, against the frozen base (a copy of the first weights), in rectify",
        ),
        (
            {"guidance_reference": "ema", "enhanced_range": (0.25, 1.0)},
            "full",
            "default",
            "scale 2 (twinflow_enhanced_ratio 0.5), against the EMA teacher, in the velocity at times 0.25 to 1",
        ),
        ({"guidance_reference": "base", "enhanced_ratio": 0.0}, "lora", "default", "none is trained in (scale 1)"),
    ],
)
def test_line_says_scale_reference_and_place(given, model_type, init, line):
    config = SimpleNamespace(model_type=model_type, lora_init_type=init, use_ema=True)
    assert described(TwinFlowOptions(**given), config) == line


@pytest.mark.usefixtures("configuration_folder")
def test_guidance_given_both_as_ratio_and_as_scale_is_refused_with_both_values():
    problem = refusal(SEED, twinflow_enhanced_ratio=0.5, twinflow_guidance_scale="3")
    assert "twinflow_enhanced_ratio is 0.5 and twinflow_guidance_scale 3.0: " in problem
    assert "Remove one of them." in problem
    alone = {key: value for key, value in SEED.items() if key != "twinflow_enhanced_ratio"}
    assert load(alone, twinflow_guidance_scale=3).twinflow_guidance_scale == 3.0
    load(SEED, twinflow_enhanced_ratio=0.5, twinflow_guidance_scale=3, twinflow_enabled=False)


@pytest.mark.usefixtures("configuration_folder")
@pytest.mark.parametrize(("ratio", "refused"), [(0.5, False), (0.6, True)])
def test_form_of_the_web_ui_gives_a_ratio_that_nobody_asked_for(ratio, refused):
    form = {key: value for key, value in get_all_field_defaults().items() if key.startswith("--twinflow_")}
    form |= {"--twinflow_enabled": True, "--twinflow_enhanced_ratio": ratio, "--twinflow_guidance_scale": 3.0}
    if refused:
        assert "Remove one of them." in refusal(OFF, **form)
    else:
        assert load(OFF, **form).twinflow_guidance_scale == 3.0
