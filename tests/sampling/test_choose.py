"""Which few-step sampler a pipeline gets, and with which settings."""

import pytest
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, UniPCMultistepScheduler

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowDiffusionScheduler, TwinFlowError, TwinFlowScheduler
from simpletuner_twinflow.sampling.choose import few_step_scheduler
from simpletuner_twinflow.sampling.pipelines import kind_of

EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)
INVERTED = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
DDIM = DDIMScheduler(prediction_type="epsilon")


@pytest.mark.parametrize(
    ("class_name", "current", "wanted"),
    [
        ("StableDiffusion3Pipeline", EULER, TwinFlowScheduler),
        ("StableDiffusionXLPipeline", FlowMatchLCMScheduler(), TwinFlowScheduler),
        (
            "WanPipeline",
            UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            TwinFlowScheduler,
        ),
        ("OmniGenPipeline", INVERTED, TwinFlowScheduler),
        ("BooguImagePipeline", EULER, TwinFlowScheduler),
        ("StableDiffusionPipeline", DDIMScheduler(prediction_type="epsilon"), TwinFlowDiffusionScheduler),
        ("PixArtSigmaPipeline", DDIMScheduler(prediction_type="v_prediction"), TwinFlowDiffusionScheduler),
    ],
)
def test_sampler_is_that_of_the_pipelines_kind_of_model(class_name, current, wanted):
    found = few_step_scheduler(current, kind_of(class_name))
    assert type(found) is wanted
    found.set_timesteps(2)
    sigmas = [1.0, 0.5, 0.0] if wanted is TwinFlowScheduler else [0.999, 0.6, 0.0]
    assert found.flow_sigmas.tolist() == pytest.approx(sigmas)


def test_pipeline_of_another_kind_is_refused_by_its_scheduler():
    with pytest.raises(TwinFlowError, match=r"DDIMScheduler with prediction_type 'sample'"):
        few_step_scheduler(DDIMScheduler(prediction_type="sample"), kind_of("StableDiffusionPipeline"))


@pytest.mark.parametrize(
    ("class_name", "inverted"), [("OmniGenPipeline", True), ("BooguImagePipeline", True), ("FluxPipeline", False)]
)
def test_sigmas_are_inverted_where_the_pipelines_time_is_1_at_the_data(class_name, inverted):
    config = few_step_scheduler(EULER, kind_of(class_name)).config
    assert (config.invert_sigmas, config.num_train_timesteps) == (inverted, 1 if inverted else 1000)


@pytest.mark.parametrize(("class_name", "unit"), [("FluxPipeline", 1), ("StableDiffusion3Pipeline", 1000)])
def test_sigmas_are_those_that_the_networks_time_can_be_in_the_dtype_of_training(class_name, unit):
    found = few_step_scheduler(EULER, kind_of(class_name), "bfloat16").step_times(4)
    assert found == TwinFlowScheduler(time_dtype="bfloat16", time_unit=unit).step_times(4)
    assert found != TwinFlowScheduler().step_times(4)


SETTINGS = {"style": "any", "stochastic_ratio": 0.5, "sigma_max": 0.9, "sigma_min": 0.2}


@pytest.mark.parametrize(("class_name", "current"), [("FluxPipeline", EULER), ("StableDiffusionPipeline", DDIM)])
def test_settings_reach_the_sampler(class_name, current):
    settings = few_step_scheduler(current, kind_of(class_name), settings=SETTINGS).settings
    assert {name: getattr(settings, name) for name in SETTINGS} == SETTINGS


def test_a_setting_that_is_given_goes_before_the_pipelines_own():
    found = few_step_scheduler(EULER, kind_of("FluxPipeline"), "bfloat16", {"time_dtype": "float32", "shift": 2.0})
    assert (found.settings.time_dtype, found.settings.shift) == ("float32", 2.0)


@pytest.mark.parametrize("setting", [{"shift": 2.0}, {"time_dtype": "bfloat16"}, {"time_unit": 1}], ids=str)
def test_a_setting_that_the_sampler_of_epsilon_and_v_models_lacks_is_refused(setting):
    with pytest.raises(TwinFlowConfigError, match=f"{next(iter(setting))} is .* has no such setting"):
        few_step_scheduler(DDIM, kind_of("StableDiffusionPipeline"), settings=setting)
