"""What the plugin needs to know of the host's model families, one row a family that TwinFlow has been proven on.

The host's own classes say the rest: direction, timesteps, latents, conditioning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the host's classes do not say of a family."""

    time_embedding: str  # submodule of the network whose output embeds the time
    host_sign: str | None = None  # submodule: the host's sign embedding, where ordinary training passes it the sign
    rows_first: bool = False  # whether the time embedding sees B rows and then B fixed times of the network's own
    sigmas_of_data: bool = False  # whether batch["sigmas"] is the share of data in the sample, not of noise
    text_destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see host/batches.py
    embeds_guidance: bool = False  # whether flavours embed the guidance scale that the host trains with
    network_config: Mapping[str, Any] = field(default_factory=dict)  # what the pipeline reads there and the host omits
    signed_time: str | None = None  # why it cannot be had; None where it can


FAMILIES = {
    "sd3": Family(time_embedding="time_text_embed.timestep_embedder", host_sign="time_sign_embed"),
    "flux": Family(time_embedding="time_text_embed.timestep_embedder", embeds_guidance=True),
    "flux2": Family(
        time_embedding="time_guidance_embed.timestep_embedder", host_sign="time_sign_embed", embeds_guidance=True
    ),
    "qwen_image": Family(time_embedding="time_text_embed.timestep_embedder"),
    "z_image": Family(time_embedding="t_embedder.mlp"),
    # The host adds Sana's and LTX-Video's sign behind all blocks, so it goes our way.
    "sana": Family(time_embedding="time_embed.emb.timestep_embedder", network_config={"timestep_scale": 1.0}),
    "ltxvideo": Family(time_embedding="time_embed.emb.timestep_embedder"),
    "auraflow": Family(time_embedding="time_step_proj", host_sign="time_sign_embed"),
    # Chroma has no time embedding of its own: the guidance layer makes every block's modulation from the bare time.
    "chroma": Family(time_embedding="distilled_guidance_layer", host_sign="time_sign_embed"),
    "lumina2": Family(time_embedding="time_caption_embed.timestep_embedder"),
    "hidream": Family(time_embedding="t_embedder.timestep_embedder", host_sign="t_embedder.time_sign_embed"),
    "kandinsky5_image": Family(time_embedding="time_embeddings", host_sign="time_embeddings.time_sign_embed"),
    "longcat_image": Family(time_embedding="time_embed.timestep_embedder", host_sign="time_embed.time_sign_embed"),
    "wan": Family(time_embedding="condition_embedder.time_embedder", host_sign="condition_embedder.time_sign_embed"),
    "hunyuanvideo": Family(time_embedding="time_embed.timestep_embedder", host_sign="time_embed.time_sign_embed"),
}

DIFFUSION_FAMILIES = {  # families that predict epsilon or v, by diff2flow
    "sd1x": Family(time_embedding="time_embedding"),  # with prediction_type "v_prediction" also SD 2
    "sdxl": Family(time_embedding="time_embedding"),
    "kolors": Family(time_embedding="time_embedding"),
    "pixart": Family(time_embedding="adaln_single.emb.timestep_embedder"),
}


def is_flow_matching(config: Mapping[str, Any]) -> bool:
    """Whether the run's model predicts a flow velocity, by the host's own classes."""
    from simpletuner.helpers.models.registry import ModelRegistry

    family = ModelRegistry.model_families().get(config.get("model_family"))
    if family is None:
        return True  # the host refuses an unknown family itself
    overridden = config.get("prediction_type") in ("epsilon", "v_prediction", "sample")
    return family.PREDICTION_TYPE.is_flow_prediction and not overridden


def unsupported_reason(config: Mapping[str, Any], *, flow: bool) -> str | None:
    """Why this run's model cannot be trained yet; None when it can."""
    family = config.get("model_family")
    known = ", ".join(sorted(FAMILIES))
    unproven = "which TwinFlow has not been proven on yet"
    way_out = f'Use one of: {known}; or SimpleTuner\'s own TwinFlow with twinflow_implementation: "host".'
    if not flow:
        return _diffusion_reason(config)
    if family not in FAMILIES:
        return f"model_family is {family!r}, {unproven}. {way_out}"
    return None


def _diffusion_reason(config: Mapping[str, Any]) -> str | None:
    family, kind = config.get("model_family"), config.get("prediction_type")
    if family not in DIFFUSION_FAMILIES:
        return (
            f"model_family is {family!r} with diff2flow_enabled, which TwinFlow has not been proven on yet. "
            f"Use one of: {', '.join(sorted(DIFFUSION_FAMILIES))}; or a flow-matching family."
        )
    if kind not in (None, "", "epsilon", "v_prediction"):
        return (
            f"prediction_type is {kind!r}, which diff2flow cannot turn into a flow. "
            'Set it to "epsilon" or "v_prediction", as the base model predicts, or remove it.'
        )
    return None
