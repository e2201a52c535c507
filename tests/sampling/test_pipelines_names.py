"""The table of pipelines against their names, in which diffusers says what goes in and what comes out."""

import pytest

from simpletuner_twinflow.sampling.pipelines import PIPELINES

TAKE_A_PICTURE = ("Edit", "Img2Img", "ImageToVideo", "I2I", "I2V")
MAKE_FRAMES = ("Video", "2V", "Cosmos3", "LTX", "Wan")
PREDICT_EPSILON = ("StableDiffusionPipeline", "StableDiffusionImg2Img", "StableDiffusionXL", "Kolors", "PixArt")


@pytest.mark.parametrize("name", PIPELINES)
def test_those_named_so_need_a_picture_make_frames_or_predict_epsilon_and_no_others(name):
    assert PIPELINES[name].needs_image == any(word in name for word in TAKE_A_PICTURE)
    assert PIPELINES[name].video == any(word in name for word in MAKE_FRAMES)
    assert PIPELINES[name].diffusion == any(word in name for word in PREDICT_EPSILON)


@pytest.mark.parametrize("name", PIPELINES)
def test_only_those_of_flux_embed_guidance(name):
    assert PIPELINES[name].embeds_guidance == (name.startswith("Flux") and not name.startswith("Flux3"))
