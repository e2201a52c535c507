"""Validation in few steps at guidance 0; the base model's benchmark and the evaluation keep what they are."""

from types import SimpleNamespace

import pytest
from diffusers import StableDiffusion3Pipeline
from simpletuner.helpers.models.common import PipelineTypes
from simpletuner.helpers.training import custom_schedule
from simpletuner.helpers.training import validation as hosts
from simpletuner.helpers.training.validation import Evaluation, Validation

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.host.drawing.validation import (
    HOSTS_OWN,
    REAL_GUIDANCE,
    sampling_guidance,
    settled_pipeline_calls,
)
from testbed.host_models.demo import BASE
from testbed.host_models.flow import host_model


def test_documented_snippet_draws_an_image():
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE)
    scheduler = custom_schedule.TwinFlowScheduler(num_train_timesteps=1000, prediction_type="flow_matching", shift=1.0)
    pipeline.scheduler = scheduler
    pipeline.scheduler.set_timesteps(num_inference_steps=2, device=pipeline.device)
    size = {"height": 64, "width": 64}  # a tiny pipeline's; the snippet leaves it to the model
    drawn = pipeline(prompt="A cinematic portrait, 35mm", guidance_scale=0.0, num_inference_steps=2, **size).images
    assert drawn[0].size == (64, 64)


@pytest.fixture
def validation(trainer):
    """The host's validation of the trainer's model, which has no prompts to draw."""
    made = Validation.__new__(Validation)
    made.config, made.model, made.distiller = trainer.config, trainer.model, trainer.distiller
    made.validation_prompt_metadata = None
    return made


def test_documented_import_path_gives_our_scheduler_and_the_hosts_is_within_reach():
    assert custom_schedule.TwinFlowScheduler is TwinFlowScheduler
    own = getattr(custom_schedule, HOSTS_OWN)
    assert own.__module__ == custom_schedule.__name__
    assert hosts.TwinFlowScheduler is hosts.SCHEDULER_NAME_MAP["twinflow"] is own


def test_validation_draws_with_the_distillers_scheduler(validation):
    validation.model.pipeline = SimpleNamespace(scheduler=None)
    validation.setup_scheduler("intermediary")
    assert type(validation.model.pipeline.scheduler) is TwinFlowScheduler


@pytest.mark.parametrize(("kind", "enabled"), [("base_model", False), ("intermediary", True), ("final", True)])
def test_base_models_benchmark_alone_runs_as_if_twinflow_were_off(kind, enabled, validation):
    seen = []
    update = validation.model.update_pipeline_call_kwargs

    def note():
        seen.append((validation.config.twinflow_enabled, validation.model.update_pipeline_call_kwargs != update))

    validation._update_state = note
    validation._validation_method = lambda: None
    validation.run_validations(validation_type=kind)
    assert seen == [(enabled, enabled)]
    assert validation.config.twinflow_enabled
    assert validation.model.update_pipeline_call_kwargs == update


def pipeline_of(model):
    """The host's pipeline without any part, which is enough to be asked for its arguments."""
    pipeline_class = model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    return pipeline_class.__new__(pipeline_class)


def test_steps_and_guidance_are_the_runs(folder, in_folder):
    """FLUX's pipeline has a second scale, which nobody names here and whose default is above 1."""
    model = host_model("flux", folder, flux_guidance_value=2.5, twinflow_target_step_count=4)
    model.pipeline = pipeline_of(model)
    given = {"num_inference_steps": 30, "guidance_scale": 7.5, "prompt": "a cat"}
    with settled_pipeline_calls(model):
        settled = model.update_pipeline_call_kwargs(dict(given))
    real = REAL_GUIDANCE & settled.keys()
    assert real
    assert settled == {"num_inference_steps": 4, "guidance_scale": 2.5, "prompt": "a cat"} | dict.fromkeys(real, 1.0)


def test_guider_of_a_pipeline_is_off_for_the_length_of_the_block(trainer):
    switched = []
    trainer.model.pipeline = pipeline_of(trainer.model)
    guider = SimpleNamespace(disable=lambda: switched.append("off"), enable=lambda: switched.append("on"))
    trainer.model.pipeline.guider = guider
    with settled_pipeline_calls(trainer.model):
        trainer.model.update_pipeline_call_kwargs({})
        assert switched == ["off"]
    assert switched == ["off", "on"]  # the host may keep it for the base model's benchmark


@pytest.mark.parametrize(("embeds", "scale"), [(True, 2.5), (False, 0.0)])
def test_network_that_embeds_guidance_is_drawn_at_the_scale_it_is_trained_with(embeds, scale, folder, in_folder):
    model = host_model("flux", folder, flux_guidance_value=2.5)
    model.model.register_to_config(guidance_embeds=embeds)
    assert sampling_guidance(model) == scale


def test_evaluation_pauses_the_distiller_of_the_trainer_that_prepares_its_batches(trainer):
    paused = []

    class Accelerator:
        @property
        def is_main_process(self):
            paused.append(trainer.distiller._paused)
            return False

    evaluation = Evaluation.__new__(Evaluation)
    evaluation.accelerator = Accelerator()
    for prepare in (trainer.prepare_batch, lambda batch: batch):
        assert evaluation.execute_eval(prepare, None, None, None, None) == {}
    assert paused == [True, False]
    assert not trainer.distiller._paused
