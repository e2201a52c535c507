"""The table by which the command line draws agrees with what the families are trained as."""

import pytest
from simpletuner.helpers.models.common import (
    AudioModelFoundation,
    ImageModelFoundation,
    PipelineTypes,
    VideoModelFoundation,
)
from simpletuner.helpers.models.registry import ModelRegistry

from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES
from simpletuner_twinflow.sampling.pipelines import PIPELINES

FOUND = ModelRegistry.model_families()
CLASSES = {name: FOUND[name] if isinstance(FOUND[name], type) else FOUND[name].get_real_class() for name in FOUND}
TRAINED = {name: family for name, family in (FAMILIES | DIFFUSION_FAMILIES).items() if name in CLASSES}
# An edit or a video from a picture; a "text-to-image" pipeline stands here too where the host has one for both.
KINDS = (PipelineTypes.TEXT2IMG, PipelineTypes.IMG2IMG, PipelineTypes.IMG2VIDEO)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_every_pipeline_of_a_trained_family_is_drawn_with_as_it_is_trained(name):
    family, model = TRAINED[name], CLASSES[name]
    found = {kind: pipeline.__name__ for kind, pipeline in model.PIPELINE_CLASSES.items() if kind in KINDS and pipeline}
    assert found
    for kind, class_name in found.items():
        row = PIPELINES[class_name]
        assert row.invert_sigmas == (family.invert_sigmas != "no")
        assert row.time_unit == family.time_unit
        assert row.diffusion == (name in DIFFUSION_FAMILIES)
        assert row.embeds_guidance == family.embeds_guidance
        assert row.unguided_scale == family.unguided_scale
        assert row.song == family.sings == issubclass(model, AudioModelFoundation)
        assert row.video == issubclass(model, VideoModelFoundation)
        assert row.needs_image == (class_name != found.get(PipelineTypes.TEXT2IMG)), kind


def test_families_are_pictures_videos_or_songs():
    for name in TRAINED:
        assert issubclass(CLASSES[name], ImageModelFoundation | VideoModelFoundation | AudioModelFoundation), name
