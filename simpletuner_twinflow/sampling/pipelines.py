"""How the pipelines of the trained families are called to draw in a few steps, one row a diffusers class.

What is trained is in the families' own table (host/families.py), which the tests hold against this one.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpletuner_twinflow.errors import TwinFlowError

EMBEDDED_GUIDANCE = 1.0  # the scale that SimpleTuner trains networks with that embed one, unless told otherwise
REAL_GUIDANCE = ("true_cfg_scale", "guidance_scale_real")  # beside an embedded scale; 1 is the prompt alone


@dataclass(frozen=True, kw_only=True)
class PipelineKind:
    """What a pipeline's class says of how to draw with it."""

    data_ward: bool = False  # whether it counts time as the share of data and its network returns x - z
    diffusion: bool = False  # whether its network may predict epsilon or v
    embeds_guidance: bool = False  # whether flavours embed the guidance scale that they are trained with
    unguided_scale: float = 0.0  # the guidance scale at which it follows the prompt alone
    video: bool = False  # whether it makes frames
    needs_image: bool = False  # whether it edits or animates a picture


STILL, VIDEO = PipelineKind(), PipelineKind(video=True)
EDITS, ANIMATES = PipelineKind(needs_image=True), PipelineKind(video=True, needs_image=True)
DIFFUSION, DIFFUSION_EDITS = PipelineKind(diffusion=True), PipelineKind(diffusion=True, needs_image=True)

PIPELINES = {
    "AuraFlowPipeline": STILL,
    "BooguImagePipeline": PipelineKind(data_ward=True),
    "BooguImageImg2ImgPipeline": PipelineKind(data_ward=True, needs_image=True),
    "ChromaPipeline": STILL,
    "ErnieImagePipeline": STILL,
    "FluxPipeline": PipelineKind(embeds_guidance=True),
    "FluxKontextPipeline": PipelineKind(embeds_guidance=True),  # draws without a picture too
    "Flux2Pipeline": PipelineKind(embeds_guidance=True),
    "Flux2KleinPipeline": PipelineKind(embeds_guidance=True),
    "Flux3ImagePipeline": STILL,
    "HiDreamImagePipeline": STILL,
    "HunyuanVideo15Pipeline": VIDEO,
    "HunyuanVideo15ImageToVideoPipeline": ANIMATES,
    "Kandinsky5T2IPipeline": STILL,
    "Kandinsky5I2IPipeline": EDITS,
    "Kandinsky5T2VPipeline": VIDEO,
    "Kandinsky5I2VPipeline": ANIMATES,
    "Krea2Pipeline": STILL,
    "LongCatImagePipeline": STILL,
    "LongCatImageEditPipeline": EDITS,
    "LTXPipeline": VIDEO,
    "LTXImageToVideoPipeline": ANIMATES,
    "LTXConditionPipeline": VIDEO,
    "Lumina2Pipeline": STILL,
    "Lumina2Text2ImgPipeline": STILL,
    "MageFlowPipeline": STILL,
    "MOSSImagePipeline": PipelineKind(unguided_scale=1.0),
    "OmniGenPipeline": PipelineKind(data_ward=True, unguided_scale=1.0),
    "QwenImagePipeline": STILL,
    "QwenImage21Pipeline": STILL,
    "QwenImageEditPipeline": EDITS,
    "QwenImageEditPlusPipeline": EDITS,
    "SanaPipeline": STILL,
    "SanaImg2ImgPipeline": EDITS,
    "SanaVideoPipeline": VIDEO,
    "SanaImageToVideoPipeline": ANIMATES,
    "StableDiffusion3Pipeline": STILL,
    "StableDiffusion3Img2ImgPipeline": EDITS,
    "WanPipeline": VIDEO,
    "WanImageToVideoPipeline": ANIMATES,
    "ZImagePipeline": STILL,
    "ZImageOmniPipeline": STILL,
    "KolorsPipeline": DIFFUSION,
    "KolorsImg2ImgPipeline": DIFFUSION_EDITS,
    "PixArtAlphaPipeline": DIFFUSION,
    "PixArtSigmaPipeline": DIFFUSION,
    "StableDiffusionPipeline": DIFFUSION,
    "StableDiffusionImg2ImgPipeline": DIFFUSION_EDITS,
    "StableDiffusionXLPipeline": DIFFUSION,
    "StableDiffusionXLImg2ImgPipeline": DIFFUSION_EDITS,
}


def kind_of(class_name: str) -> PipelineKind:
    """What the class of this name says.

    Raises:
        TwinFlowError: it is none of a family that TwinFlow trains.
    """
    if class_name not in PIPELINES:
        raise TwinFlowError(
            f"{class_name} is not a pipeline of a model family that TwinFlow trains, which are: {', '.join(PIPELINES)}."
        )
    return PIPELINES[class_name]


def guidance_arguments(pipeline: Any, wanted: float | None) -> dict[str, float]:
    """The arguments for a pipeline's call that set its guidance, by the names that it knows.

    A network that embeds the guidance scale is given the one it is trained with: a scale of 0 is one it has never seen.

    Args:
        pipeline: of a class in `PIPELINES`.
        wanted: the scale asked for; None for the one that TwinFlow models are drawn with.

    Raises:
        TwinFlowError: a scale is asked for, and the pipeline takes none.
    """
    kind, accepted = kind_of(type(pipeline).__name__), inspect.signature(pipeline.__call__).parameters
    network = getattr(pipeline, "transformer", None)
    config: Mapping[str, Any] = network.config if network is not None else {}
    embeds = kind.embeds_guidance and bool(config.get("guidance_embeds", False))
    real = [name for name in REAL_GUIDANCE if name in accepted]
    settled = dict.fromkeys(real, 1.0)
    if real and not embeds and wanted is not None:
        return dict.fromkeys(real, wanted)
    if "guidance_scale" in accepted and (embeds or not real):
        usual = EMBEDDED_GUIDANCE if embeds else kind.unguided_scale
        settled["guidance_scale"] = usual if wanted is None else wanted
    elif wanted is not None:
        raise TwinFlowError(f"guidance is {wanted:g}, but {type(pipeline).__name__} takes no guidance scale.")
    return settled
