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


STILL, VIDEO = PipelineKind(), PipelineKind(video=True)
EDITS, ANIMATES = PipelineKind(needs_image=True), PipelineKind(video=True, needs_image=True)
UNIT, UNIT_EDITS = PipelineKind(time_unit=1), PipelineKind(time_unit=1, needs_image=True)
EMBEDS_GUIDANCE = PipelineKind(time_unit=1, embeds_guidance=True)
DIFFUSION, DIFFUSION_EDITS = PipelineKind(diffusion=True), PipelineKind(diffusion=True, needs_image=True)

PIPELINES = {
    "ACEStepPipeline": PipelineKind(song=True),
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
    "Krea2Pipeline": UNIT,
    "LongCatImagePipeline": UNIT,
    "LongCatImageEditPipeline": UNIT_EDITS,
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


def guidance_arguments(pipeline: Any, wanted: float | None) -> dict[str, float]:
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
    settled = dict.fromkeys(real, 1.0)
    if real and not embeds and wanted is not None:
        return dict.fromkeys(real, wanted)
    if "guidance_scale" in accepted and (embeds or not real):
        usual = EMBEDDED_GUIDANCE if embeds else kind.unguided_scale
        settled["guidance_scale"] = usual if wanted is None else wanted
    elif wanted is not None:
        raise TwinFlowError(f"guidance is {wanted:g}, but {type(pipeline).__name__} takes no guidance scale.")
    return settled
