"""How a pipeline is called to draw in a few steps: its guidance, by the names that it knows."""

import ast
import inspect
import textwrap
from inspect import Parameter, Signature
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.sampling.pipelines import (
    EVEN_SIGMAS,
    PIPELINES,
    guidance_arguments,
    kind_of,
    without_further_guidance,
)


def pipeline(name, *parameters, **config):
    """A pipeline of this class's name with these parameters of its call, around a network with this config."""

    def call(self, **arguments):
        raise NotImplementedError  # only its signature is read

    call.__signature__ = Signature([Parameter(each, Parameter.POSITIONAL_OR_KEYWORD) for each in ("self", *parameters)])
    made = type(name, (), {"__call__": call})()
    made.transformer = SimpleNamespace(config=config)
    return made


@pytest.mark.parametrize(
    ("made", "wanted", "arguments"),
    [
        (pipeline("StableDiffusion3Pipeline", "guidance_scale"), None, {"guidance_scale": 0.0}),
        (pipeline("StableDiffusion3Pipeline", "guidance_scale"), 3.0, {"guidance_scale": 3.0}),
        (pipeline("OmniGenPipeline", "guidance_scale"), None, {"guidance_scale": 1.0}),
        (
            pipeline("FluxPipeline", "guidance_scale", "true_cfg_scale", guidance_embeds=True),
            None,
            {"true_cfg_scale": 1.0, "guidance_scale": 1.0},
        ),
        (
            pipeline("FluxPipeline", "guidance_scale", "true_cfg_scale", guidance_embeds=True),
            3.5,
            {"true_cfg_scale": 1.0, "guidance_scale": 3.5},
        ),
        (pipeline("FluxPipeline", "guidance_scale", "true_cfg_scale"), None, {"true_cfg_scale": 1.0}),
        (pipeline("QwenImagePipeline", "guidance_scale", "true_cfg_scale"), 4.0, {"true_cfg_scale": 4.0}),
        (pipeline("SanaPipeline", "steps"), None, {}),
        (
            pipeline("Ideogram4Pipeline", "guidance_scale", "guidance_schedule"),
            None,
            {"guidance_scale": 1.0, "guidance_schedule": None},
        ),
    ],
)
def test_guidance_is_the_scale_asked_for_or_the_prompt_alone(made, wanted, arguments):
    assert guidance_arguments(made, wanted) == arguments


def test_scale_that_a_pipeline_cannot_take_is_refused():
    with pytest.raises(TwinFlowError, match="guidance is 2, but SanaPipeline takes no guidance scale"):
        guidance_arguments(pipeline("SanaPipeline", "steps"), 2.0)


def test_pipeline_of_an_untrained_family_is_refused_with_those_that_are():
    with pytest.raises(TwinFlowError, match="StableAudioPipeline is not a pipeline") as refusal:
        kind_of("StableAudioPipeline")
    assert all(name in str(refusal.value) for name in PIPELINES)


def hands_over_even_sigmas(pipeline_class) -> bool:
    """Whether the call works out sigmas from 1 to 1 / steps: what its lines `sigmas = ...` come to, at four steps."""
    call = inspect.unwrap(pipeline_class.__call__)
    assigned = (
        ast.unparse(node.value)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(call))))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sigmas"
    )
    scheduler = SimpleNamespace(config=SimpleNamespace(num_train_timesteps=1000))
    known = {"num_inference_steps": 4, "sigmas": None, "self": SimpleNamespace(scheduler=scheduler)}
    worked_out = [
        np.asarray(eval(code, call.__globals__, known))[:4] for code in assigned if "num_inference_steps" in code
    ]
    return any(np.allclose(sigmas, [1.0, 0.75, 0.5, 0.25]) for sigmas in worked_out)


# The inverted ones, those of a spacing of their own, and epsilon and v models have another stock scheduler or none.
ORDINARY = {
    name for name, kind in PIPELINES.items() if not (kind.invert_sigmas or kind.diffusion or kind.spaces_sigmas)
}
STOCK = sorted(ORDINARY & set(dir(diffusers)))


@pytest.mark.parametrize("name", STOCK)
def test_pipelines_of_even_sigmas_are_those_whose_call_works_them_out(name):
    assert hands_over_even_sigmas(getattr(diffusers, name)) == (name in EVEN_SIGMAS)


def test_pipelines_of_even_sigmas_are_in_the_table():
    # The music's pipeline is a modular one, whose time is 1 at the data; its stock scheduler is the inverted one.
    assert ORDINARY | {"MiniMaxMusic3ModularPipeline"} > EVEN_SIGMAS


def test_all_guidance_that_a_pipeline_has_on_by_default_is_left_out():
    """By the pipeline's own account of what it does. One that has none on is asked for nothing."""
    made = diffusers.LTX2Pipeline.__new__(diffusers.LTX2Pipeline)
    given = guidance_arguments(made, None)
    for name, value in given.items():
        setattr(made, f"_{name}", value)
    kinds = ("do_classifier_free_guidance", "do_spatio_temporal_guidance", "do_modality_isolation_guidance")
    assert not any(getattr(made, kind) for kind in kinds)
    assert given["guidance_rescale"] == given["audio_guidance_rescale"] == 0
    call = inspect.signature(diffusers.StableDiffusionXLPipeline.__call__).parameters
    assert "guidance_rescale" in call
    assert without_further_guidance(call) == {}


def test_pipelines_whose_guided_velocity_begins_at_the_empty_prompts_follow_the_prompt_at_a_scale_of_one():
    """The others, told 0, make no pass on the empty prompt and leave its part out."""
    at_one = {name for name, kind in PIPELINES.items() if kind.unguided_scale == 1.0}
    families = (
        "Anima",
        "Cosmos3Omni",
        "Ideogram4",
        "LTX2",
        "LTX2ImageToVideo",
        "MiniMaxMusic3Modular",
        "MOSSImage",
        "OmniGen",
    )
    assert at_one == {f"{name}Pipeline" for name in families}
    assert all(kind.unguided_scale == 0.0 for name, kind in PIPELINES.items() if name not in at_one)
