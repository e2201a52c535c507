"""How the pipelines of the trained families are called to draw in a few steps, one row a diffusers class.

The families' own table (host/settings/families.py) says what is trained; the tests compare the two.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpletuner_twinflow.errors import TwinFlowError

EMBEDDED_GUIDANCE = 1.0  # SimpleTuner's default of flux_guidance_value, for networks that embed the scale
REAL_GUIDANCE = ("true_cfg_scale", "guidance_scale_real")  # beside an embedded scale; 1 is the prompt alone

# Further kinds of guidance, which some pipelines have on by default, each at the value that leaves it out.
FURTHER_GUIDANCE = {
    "guidance_rescale": 0.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_guidance_scale": 1.0,
    "audio_guidance_rescale": 0.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class PipelineKind:
    """What a pipeline's class says of how to draw with it."""

    invert_sigmas: bool = False  # whether its time is 1 at the data, and its network returns x - z
    time_unit: int = 1000  # the network's time at pure noise, 1 or 1000 (1: also for a time of 1 at the data)
    diffusion: bool = False  # whether its network may predict epsilon or v
    embeds_guidance: bool = False  # whether flavours embed the guidance scale that they are trained with
    unguided_scale: float = 0.0  # the guidance scale at which it follows the prompt alone
    video: bool = False  # whether it makes frames
    song: bool = False  # whether it makes sound
    needs_image: bool = False  # whether it edits or animates a picture
    spaces_sigmas: bool = False  # whether it hands its scheduler sigmas in a spacing of its own


STILL, VIDEO = PipelineKind(), PipelineKind(video=True)
EDITS, ANIMATES = PipelineKind(needs_image=True), PipelineKind(video=True, needs_image=True)
UNIT, UNIT_EDITS = PipelineKind(time_unit=1), PipelineKind(time_unit=1, needs_image=True)
EMBEDS_GUIDANCE = PipelineKind(time_unit=1, embeds_guidance=True)
DIFFUSION, DIFFUSION_EDITS = PipelineKind(diffusion=True), PipelineKind(diffusion=True, needs_image=True)

PIPELINES = {
    "ACEStepPipeline": PipelineKind(song=True),
    "AnimaPipeline": PipelineKind(time_unit=1, unguided_scale=1.0),
    "AuraFlowPipeline": UNIT,
    "Cosmos3OmniPipeline": PipelineKind(unguided_scale=1.0, video=True),
    "BooguImagePipeline": PipelineKind(invert_sigmas=True, time_unit=1),
    "BooguImageImg2ImgPipeline": PipelineKind(invert_sigmas=True, time_unit=1, needs_image=True),
    "ChromaPipeline": UNIT,
    "ErnieImagePipeline": STILL,
    "FluxPipeline": EMBEDS_GUIDANCE,
    "FluxKontextPipeline": EMBEDS_GUIDANCE,  # draws without a picture too
    "Flux2Pipeline": EMBEDS_GUIDANCE,
    "Flux2KleinPipeline": EMBEDS_GUIDANCE,
    "Flux3ImagePipeline": UNIT,
    "HiDreamImagePipeline": STILL,
    "HunyuanVideo15Pipeline": VIDEO,
    "HunyuanVideo15ImageToVideoPipeline": ANIMATES,
    "Kandinsky5T2IPipeline": STILL,
    "Kandinsky5I2IPipeline": EDITS,
    "Kandinsky5T2VPipeline": VIDEO,
    "Kandinsky5I2VPipeline": ANIMATES,
    "Ideogram4Pipeline": PipelineKind(time_unit=1, unguided_scale=1.0, spaces_sigmas=True),
    "Krea2Pipeline": UNIT,
    "LongCatImagePipeline": UNIT,
    "LongCatImageEditPipeline": UNIT_EDITS,
    "LTX2Pipeline": PipelineKind(unguided_scale=1.0, video=True),
    "LTX2ImageToVideoPipeline": PipelineKind(unguided_scale=1.0, video=True, needs_image=True),
    "LTXPipeline": VIDEO,
    "LTXImageToVideoPipeline": ANIMATES,
    "LTXConditionPipeline": VIDEO,
    "Lumina2Pipeline": UNIT,
    "Lumina2Text2ImgPipeline": UNIT,
    "MageFlowPipeline": UNIT,
    "MiniMaxMusic3ModularPipeline": PipelineKind(invert_sigmas=True, time_unit=1, unguided_scale=1.0, song=True),
    "MOSSImagePipeline": PipelineKind(unguided_scale=1.0),
    "OmniGenPipeline": PipelineKind(invert_sigmas=True, time_unit=1, unguided_scale=1.0),
    "QwenImagePipeline": UNIT,
    "QwenImage21Pipeline": UNIT,
    "QwenImageEditPipeline": UNIT_EDITS,
    "QwenImageEditPlusPipeline": UNIT_EDITS,
    "SanaPipeline": STILL,
    "SanaImg2ImgPipeline": EDITS,
    "SanaVideoPipeline": VIDEO,
    "SanaImageToVideoPipeline": ANIMATES,
    "StableDiffusion3Pipeline": STILL,
    "StableDiffusion3Img2ImgPipeline": EDITS,
    "WanPipeline": VIDEO,
    "WanImageToVideoPipeline": ANIMATES,
    "ZImagePipeline": UNIT,
    "ZImageOmniPipeline": UNIT,
    "ZlabI1Pipeline": STILL,
    "KolorsPipeline": DIFFUSION,
    "KolorsImg2ImgPipeline": DIFFUSION_EDITS,
    "PixArtAlphaPipeline": DIFFUSION,
    "PixArtSigmaPipeline": DIFFUSION,
    "StableDiffusionPipeline": DIFFUSION,
    "StableDiffusionImg2ImgPipeline": DIFFUSION_EDITS,
    "StableDiffusionXLPipeline": DIFFUSION,
    "StableDiffusionXLImg2ImgPipeline": DIFFUSION_EDITS,
}

# Pipelines that hand their scheduler sigmas spaced evenly from 1 to 1 / steps; the others leave the sigmas to it.
EVEN_SIGMAS = frozenset(
    f"{name}Pipeline"
    for name in (
        "MiniMaxMusic3Modular",
        *("Chroma", "ErnieImage", "Flux", "FluxKontext", "Flux2", "Flux2Klein", "Flux3Image", "HunyuanVideo15"),
        *("HunyuanVideo15ImageToVideo", "Krea2", "LongCatImage", "LongCatImageEdit", "LTX", "LTXImageToVideo"),
        *("LTX2", "LTX2ImageToVideo"),
        *("Lumina2", "Lumina2Text2Img", "MageFlow", "QwenImage", "QwenImage21", "QwenImageEdit", "QwenImageEditPlus"),
        *("ZImage", "ZImageOmni"),
    )
)


def kind_of(class_name: str) -> PipelineKind:
    """What the class of this name says.

    Raises:
        TwinFlowError: the class is not of a family that TwinFlow trains.
    """
    if class_name not in PIPELINES:
        raise TwinFlowError(
            f"{class_name} is not a pipeline of a model family that TwinFlow trains, which are: {', '.join(PIPELINES)}."
        )
    return PIPELINES[class_name]


def without_further_guidance(accepted: Mapping[str, inspect.Parameter]) -> dict[str, float]:
    """The arguments that leave out the further kinds of guidance of a pipeline's call, where it has them on.

    Args: accepted: the parameters of the call.
    """
    known = {name: value for name, value in FURTHER_GUIDANCE.items() if name in accepted}
    return {name: value for name, value in known.items() if accepted[name].default not in (value, None)}


def guidance_arguments(pipeline: Any, wanted: float | None) -> dict[str, float | None]:
    """The arguments that set the guidance of a pipeline's call, by the names that it knows.

    A network that embeds the guidance scale is given the one it was trained with; it was never trained with 0.

    Args:
        pipeline: of a class in `PIPELINES`.
        wanted: the guidance scale; None for the one that TwinFlow models are drawn with.

    Raises:
        TwinFlowError: a scale is wanted and the pipeline takes none.
    """
    kind, accepted = kind_of(type(pipeline).__name__), inspect.signature(pipeline.__call__).parameters
    network = getattr(pipeline, "transformer", None)
    config: Mapping[str, Any] = network.config if network is not None else {}
    embeds = kind.embeds_guidance and bool(config.get("guidance_embeds", False))
    real = [name for name in REAL_GUIDANCE if name in accepted]
    settled: dict[str, float | None] = dict.fromkeys(real, 1.0)
    if "guidance_schedule" in accepted:
        settled["guidance_schedule"] = None  # a default that excludes a scale
    if real and not embeds and wanted is not None:
        return dict.fromkeys(real, wanted)
    settled |= without_further_guidance(accepted)
    if "guidance_scale" in accepted and (embeds or not real):
        usual = EMBEDDED_GUIDANCE if embeds else kind.unguided_scale
        settled["guidance_scale"] = usual if wanted is None else wanted
    elif wanted is not None:
        raise TwinFlowError(f"guidance is {wanted:g}, but {type(pipeline).__name__} takes no guidance scale.")
    return settled
