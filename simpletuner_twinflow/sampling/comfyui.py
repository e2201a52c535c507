"""ComfyUI workflows that draw with a trained LoRA, in the API format, which ComfyUI also opens in its window.

Nodes are ComfyUI's own; the tests hold every workflow against their definitions (tests/sampling/comfyui_nodes.json).
The sigmas are the run's, by `ManualSigmas`: ComfyUI gives them to the network as they are, without a shift.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Forms of an adapter's file, the host's `lora_format`, that ComfyUI finds all layers in.
BOTH, DIFFUSERS, COMFYUI = ("diffusers", "comfyui"), ("diffusers",), ("comfyui",)


@dataclass(frozen=True, kw_only=True)
class Known:
    """How ComfyUI loads and draws a family of the host. Names of files are those of ComfyUI's examples."""

    model: str  # in its folder `checkpoints` if that brings encoders and VAE too, else `diffusion_models`
    encoders: tuple[str, ...] = ()  # in `text_encoders`; none: the checkpoint's own
    encoder_type: str | None = None
    vae: str | None = None  # None: the checkpoint's own
    latent: str = "EmptySD3LatentImage"
    formats: tuple[str, ...] = BOTH
    flavours: str = ".*"  # a regular expression for the whole flavour; others ComfyUI draws otherwise or not at all


T5, CLIPS = "t5xxl_fp16.safetensors", ("clip_l.safetensors", "clip_g.safetensors")
HIDREAM_CLIPS = ("clip_l_hidream.safetensors", "clip_g_hidream.safetensors")
FAMILIES: Mapping[str, Known] = {
    "sd3": Known(model="sd3.5_{flavour}.safetensors", encoders=(*CLIPS, T5)),
    "flux": Known(
        model="flux1-dev.safetensors",
        encoders=(CLIPS[0], T5),
        encoder_type="flux",
        vae="ae.safetensors",
        flavours="dev|krea|schnell",
    ),
    "flux2": Known(
        model="flux-2-klein-base-4b.safetensors",
        encoders=("qwen_3_4b.safetensors",),
        encoder_type="flux2",
        vae="flux2-vae.safetensors",
        latent="EmptyFlux2LatentImage",
        flavours="klein-4b",
    ),
    "qwen_image": Known(
        model="qwen_image_bf16.safetensors",
        encoders=("qwen_2.5_vl_7b.safetensors",),
        encoder_type="qwen_image",
        vae="qwen_image_vae.safetensors",
        flavours="v1.0|v2.0",
    ),
    "z_image": Known(
        model="z_image_turbo_bf16.safetensors",
        encoders=("qwen_3_4b.safetensors",),
        encoder_type="lumina2",
        vae="ae.safetensors",
    ),
    "chroma": Known(
        model="chroma-unlocked-v37.safetensors",
        encoders=(T5,),
        encoder_type="chroma",
        vae="ae.safetensors",
        formats=DIFFUSERS,
    ),
    "hidream": Known(
        model="hidream_i1_full_fp16.safetensors",
        encoders=(*HIDREAM_CLIPS, T5, "llama_3.1_8b_instruct_fp8_scaled.safetensors"),
        vae="ae.safetensors",
    ),
    "auraflow": Known(model="aura_flow_0.3.safetensors", latent="EmptyLatentImage"),
    # The U-Nets' layers are found under the names of the other form alone.
    "sdxl": Known(model="sd_xl_base_1.0.safetensors", latent="EmptyLatentImage", formats=COMFYUI, flavours="base-.*"),
    "sd1x": Known(model="v1-5-pruned-emaonly.safetensors", latent="EmptyLatentImage", formats=COMFYUI),
}
_LOADERS = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader", 4: "QuadrupleCLIPLoader"}


def why_not(family: str, flavour: str, lora_format: str) -> str | None:
    """Why there is no workflow for such an adapter; None if there is one."""
    known = FAMILIES.get(family)
    if known is None:
        return f"ComfyUI does not draw {family}, or finds none of the layers in its adapters"
    if not re.fullmatch(known.flavours, flavour):
        return f"no workflow is known for {family} {flavour}"
    if lora_format not in known.formats:
        return (
            f'ComfyUI finds none of the layers of {family} in this file; it does with lora_format "{known.formats[0]}"'
        )
    return None


def workflow(
    family: str,
    *,
    lora: str,
    sigmas: Sequence[float],
    sampler: str,
    flavour: str = "",
    prompt: str = "",
    size: tuple[int, int] = (1024, 1024),
    seed: int = 42,
    embedded_guidance: float | None = None,
) -> dict[str, Any]:
    """The workflow of an adapter for which `why_not` has no reason.

    Args:
        family: a key of `FAMILIES`.
        lora: the adapter's file, as it is called in ComfyUI's folder `loras`.
        sigmas: from the first call's down to 0, as ComfyUI's model counts them (`comfyui_sigmas`).
        sampler: "euler" for own steps, "lcm" for jumps to the data that are noised anew.
        flavour: of the host, for the model's file name.
        size: width and height in pixels.
        embedded_guidance: the scale that the network is given as an input; None where it has none.
    """
    known = FAMILIES[family]
    nodes: dict[str, Any] = {}

    def node(kind: str, title: str = "", **inputs: Any) -> str:
        name = str(len(nodes) + 1)
        nodes[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}
        return name

    file = known.model.format(flavour=flavour)
    if known.vae is None:
        loader = node("CheckpointLoaderSimple", "Base model", ckpt_name=file)
        clip, vae = [loader, 1], [loader, 2]
    else:
        loader = node("UNETLoader", "Base model", unet_name=file, weight_dtype="default")
        vae = [node("VAELoader", vae_name=known.vae), 0]
    if known.encoders:
        count = len(known.encoders)
        names = {f"clip_name{place + 1 if count > 1 else ''}": name for place, name in enumerate(known.encoders)}
        kind = {"type": known.encoder_type} if known.encoder_type else {}
        clip = [node(_LOADERS[count], "Text encoders", **names, **kind), 0]
    adapted = node("LoraLoaderModelOnly", "TwinFlow LoRA", model=[loader, 0], lora_name=lora, strength_model=1.0)
    condition = node("CLIPTextEncode", "Prompt", text=prompt, clip=clip)
    if embedded_guidance is not None:
        condition = node("FluxGuidance", conditioning=[condition, 0], guidance=embedded_guidance)
    width, height = size
    # The guider has no negative prompt: guidance is trained in.
    drawn = node(
        "SamplerCustomAdvanced",
        noise=[node("RandomNoise", noise_seed=seed), 0],
        guider=[node("BasicGuider", model=[adapted, 0], conditioning=[condition, 0]), 0],
        sampler=[node("KSamplerSelect", sampler_name=sampler), 0],
        sigmas=[node("ManualSigmas", "TwinFlow's steps", sigmas=written(sigmas)), 0],
        latent_image=[node(known.latent, width=width, height=height, batch_size=1), 0],
    )
    picture = node("VAEDecode", samples=[drawn, 0], vae=vae)
    node("SaveImage", images=[picture, 0], filename_prefix="twinflow")
    return nodes


def written(sigmas: Sequence[float]) -> str:
    """Sigmas as `ManualSigmas` reads them, which knows no exponents: each exact to 8 digits after the point."""
    return ", ".join(f"{sigma:.8f}".rstrip("0").rstrip(".") if sigma else "0" for sigma in sigmas)


def comfyui_sigmas(times: Sequence[float], *, diffusion: bool) -> list[float]:
    """The sigmas of ComfyUI for the flow's times at which the network is called, and 0.

    Of a flow they are its times. Of an epsilon or v model ComfyUI counts the noise for data of weight 1, t / (1 - t).
    """
    return [*(time / (1 - time) if diffusion else time for time in times), 0.0]
