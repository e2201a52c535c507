"""Complete tiny pipelines of the host's model families, with random weights, built without any download."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModularPipeline
from torch import nn

from testbed.pipelines import ace_step, anima, cosmos3, diffusion, hosts, ideogram, image, ltx2, music, qwen, video

SD3 = Path(__file__).parents[2] / "demo/base"  # trained, as its VAE must be


def sd3() -> DiffusionPipeline:
    """Stable Diffusion 3: the demo's."""
    return DiffusionPipeline.from_pretrained(SD3)


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd3": sd3,
    "sana": image.sana,
    "wan": video.wan,
    "qwen_image": qwen.qwen_image,
    "qwen_image v1.0": qwen.qwen_image_1,
    "flux": image.flux,
    "flux2": image.flux2,
    "z_image": image.z_image,
    "chroma": image.chroma,
    "auraflow": image.auraflow,
    "lumina2": image.lumina2,
    "krea2": qwen.krea2,
    "hidream": image.hidream,
    "ltxvideo": video.ltxvideo,
    "ltxvideo2": ltx2.ltx2,
    "cosmos3": cosmos3.cosmos3,
    "cosmos3 super-i2v": cosmos3.cosmos3,
    "anima": anima.Anima,
    "ideogram": ideogram.ideogram,
    "flux3_image klein": hosts.flux3_klein,
    "zlab_i1": hosts.zlab_i1,
    "ace_step": ace_step.AceStep,
    "minimaxmusic": music.minimaxmusic,
    "sd1x": diffusion.sd1x,
    "sdxl": diffusion.sdxl,
    "pixart": diffusion.pixart,
}


def write(name: str, folder: Path) -> Path:
    """Write a family's pipeline. Args: name: of `BUILDERS`. folder: to write to."""
    torch.manual_seed(0)
    pipeline = BUILDERS[name]()
    awaken(pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer)
    if isinstance(pipeline, ModularPipeline):
        pipeline.save_pretrained(str(folder), overwrite_modular_index=True)
        music.write_encoder(folder)
        return folder
    pipeline.save_pretrained(folder)
    # Those that have a default in its class are left out. Parts without a pipeline's class have no configuration.
    for part in getattr(pipeline, "config", ()):
        made = vars(pipeline).get(part)  # not what its class looks up in the configuration, with a warning
        if hasattr(made, "save_pretrained") and not (folder / part).exists():
            made.save_pretrained(folder / part)
    if name.startswith("cosmos3"):
        cosmos3.write_parts(folder)
    if name == "flux3_image klein":
        pipeline.tokenizer.save_pretrained(folder / "text_encoder")
    if name == "ideogram":
        ideogram.write_fused(folder)
    return folder


def awaken(network: nn.Module) -> None:
    """Give weights that are zero at the start values, so that the output depends on the input."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
