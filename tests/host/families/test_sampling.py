"""Every family's own pipeline draws in few steps with our scheduler, called as the host's validation calls it."""

import inspect
from functools import partial, wraps
from unittest.mock import patch

import diffusers
import pytest
import torch
from simpletuner.helpers.models.common import PipelineTypes
from simpletuner.helpers.training.validation import Validation

from simpletuner_twinflow.host.drawing.ace_step import own_scheduler
from simpletuner_twinflow.host.drawing.validation import settled_pipeline_calls
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_batch, host_model
from testbed.host_models.oracle import install, named
from testbed.host_models.tiny import cached_text
from testbed.host_models.zoo import ZOO

POINT = 0.7


def pipeline_of(model, scheduler):
    """The family's text-to-image (or video) pipeline without the parts that latents and embeddings make unnecessary."""
    tiny = model.tiny
    if tiny.pipeline is not None:
        model.pipeline = tiny.pipeline(model, scheduler)
        return model.pipeline
    pipeline_class = model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    names = [
        name
        for name, argument in inspect.signature(pipeline_class.__init__).parameters.items()
        if name != "self" and argument.default in (argument.empty, None)
    ]
    parts = dict.fromkeys(names) | tiny.parts() | {"transformer": model.model, "scheduler": scheduler}
    model.pipeline = pipeline_class(**parts)
    model.pipeline.scheduler = scheduler  # as the host puts it there: a pipeline may make one of its own of the first
    return model.pipeline


def draw(model, scheduler=None):
    """Latents of one prompt, drawn by the host's own way to call a pipeline; with our scheduler if none is given."""
    tiny = model.tiny
    pipeline = pipeline_of(model, scheduler or family_model_for(model).scheduler())
    pipeline.set_progress_bar_config(disable=True)
    given = {
        "prompt": None,
        "negative_prompt": None,
        "num_images_per_prompt": 1,
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
        "height": 64,
        "width": 64,
        **model.convert_text_embed_for_pipeline(cached_text(tiny.text, "a cat")),
    }
    if model.uses_validation_negative_prompt():
        given |= model.convert_negative_text_embed_for_pipeline(text_embedding=cached_text(tiny.text, ""))
    decoded = []
    if (vae := getattr(pipeline, "vae", getattr(pipeline, "autoencoder", None))) is not None:
        vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0]))
    model.twinflow_model = family_model_for(model)
    with settled_pipeline_calls(model), own_scheduler(model), torch.no_grad():
        asked = tiny.output | {"generator": torch.Generator().manual_seed(0)}
        given = model.update_pipeline_call_kwargs(given) | tiny.call | asked
        given = Validation._filter_pipeline_kwargs_for_call(None, pipeline, given)
        if "output_type" not in tiny.output:  # a modular pipeline names none of what it takes
            given |= asked
        drawn = pipeline(**given)
    return decoded[0] if decoded else tiny.latents_of(drawn)


@pytest.mark.filterwarnings("ignore:Unexpected input:UserWarning")  # of a modular pipeline
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("family", [name for name, tiny in ZOO.items() if tiny.draws])
def test_exact_network_draws_its_data_in_any_number_of_steps(family, steps, folder):
    """So time, direction and target time of network, pipeline and scheduler agree."""
    model = host_model(family, folder, twinflow_target_step_count=steps)
    family_model_of(model)
    install(model.model, ZOO[family], prompted=POINT, unprompted=-9.0, drawn=True)
    latents = draw(model)
    torch.testing.assert_close(latents, torch.full_like(latents, POINT), rtol=1e-4, atol=1e-4)


# Whose stock pipeline takes the host's network and embeddings, or which the host alone has. What the others' pipelines
# hand over is read from their source, in tests/sampling/test_pipelines.py.
DRAWN_BY_STOCK = (
    *("sd3", "sana", "auraflow", "lumina2", "ernie", "flux2", "chroma", "qwen_image", "krea2", "wan", "ltxvideo"),
    *("sanavideo", "flux3_image", "mageflow", "moss_image"),
)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of ERNIE's
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("family", DRAWN_BY_STOCK)
def test_stock_pipeline_with_the_exported_scheduler_draws_at_the_sigmas_that_are_trained(
    family, steps, folder, monkeypatch
):
    model = host_model(family, folder, twinflow_target_step_count=steps)
    exported, ours = family_model_of(model).stock_scheduler(steps), family_model_for(model).scheduler()
    hosts = model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    stock = getattr(diffusers, hosts.__name__, hosts)
    monkeypatch.setitem(model.PIPELINE_CLASSES, PipelineTypes.TEXT2IMG, stock)
    assert torch.isfinite(draw(model, exported)).all()
    assert type(model.pipeline) is stock
    assert exported.sigmas[:-1].tolist() == pytest.approx(ours.step_times(steps), abs=1e-5)


def test_stock_scheduler_is_offered_only_where_the_familys_pipeline_could_use_it(folder):
    offered = {
        family: family_model_for(host_model(family, folder)).stock_scheduler(2) for family in ("sd3", "boogu_image")
    }
    assert offered["sd3"] is not None
    assert offered["boogu_image"] is None  # its pipeline's time runs towards the data


@pytest.mark.parametrize(("family", "scale"), [("flux", 2.5), ("flux2", 1.0)])
def test_network_that_embeds_guidance_is_given_the_scale_it_is_trained_with(family, scale, folder):
    """The host trains FLUX.2 at scale 1 whatever the config says."""
    model = host_model(family, folder, flux_guidance_value=2.5)
    family_model_of(model)
    trained, drawn = (scales(model, run) for run in (partial(predict, model), partial(draw, model)))
    assert trained == drawn == {scale}


def predict(model):
    model.model_predict(prepared_batch=host_batch(model))


def scales(model, run):
    """The guidance scales that the network is given in a run."""
    real, seen = model.model.forward, set()

    @wraps(real)
    def forward(*args, **kwargs):
        seen.update(named(real, args, kwargs)["guidance"].tolist())
        return real(*args, **kwargs)

    with patch.object(model.model, "forward", forward), torch.no_grad():
        run()
    return seen
