"""The host's model families that TwinFlow is tested with, and what the host's classes do not tell of them."""

import re
from collections.abc import Mapping
from typing import Any

from simpletuner_twinflow.host.settings.family import Family, Refusal
from simpletuner_twinflow.host.settings.sounding import SOUNDING

FAMILIES = SOUNDING | {
    "sd3": Family(time_embedding="time_text_embed.timestep_embedder"),
    "flux": Family(
        time_embedding="time_text_embed.timestep_embedder",
        time_unit=1,
        embeds_guidance=True,
        refusals=(
            Refusal(
                "flux_guidance_mode",
                "random-range",
                "each pass would draw a guidance scale of its own, and TwinFlow compares passes",
                'set it to "constant"',
            ),
        ),
    ),
    "flux2": Family(time_embedding="time_guidance_embed.timestep_embedder", time_unit=1, embeds_guidance=True),
    # Qwen-Image 2.1 embeds the time 0 for its prompt after the batch's times.
    "qwen_image": Family(time_embedding="time_text_embed.timestep_embedder", time_unit=1, rows_first=True),
    "z_image": Family(time_embedding="t_embedder.mlp", time_unit=1),
    "sana": Family(
        time_embedding="time_embed.emb.timestep_embedder", network_config={"timestep_scale": 1.0}, prompt_length=300
    ),
    "ltxvideo": Family(time_embedding="time_embed.emb.timestep_embedder", prompt_length=128),
    "auraflow": Family(time_embedding="time_step_proj", time_unit=1),
    # Chroma has no time embedding of its own: the guidance layer makes every block's modulation from the bare time.
    "chroma": Family(time_embedding="distilled_guidance_layer", time_unit=1),
    "lumina2": Family(time_embedding="time_caption_embed.timestep_embedder", time_unit=1),
    "hidream": Family(time_embedding="t_embedder.timestep_embedder"),
    "kandinsky5_image": Family(time_embedding="time_embeddings"),
    "longcat_image": Family(time_embedding="time_embed.timestep_embedder", time_unit=1),
    "wan": Family(
        time_embedding="condition_embedder.time_embedder",
        refusals=(
            Refusal(
                "model_flavour",
                "(i2v-14b-2.2|animegen-t2v)-(high|low)",
                "it is one of two networks that share the noise levels, and TwinFlow's jumps cross all of them",
                "use a flavour with one network",
            ),
        ),
    ),
    "hunyuanvideo": Family(time_embedding="time_embed.timestep_embedder"),
    "flux3_image": Family(
        time_embedding="timestep_embedder",
        time_unit=1,
        knows_target_time=True,
        refusals=(
            Refusal(
                "twinflow_time_conditioning",
                "signed_time|none",
                "its network has a target time of its own, which its pipeline gives it and this leaves out of training",
                'set it to "training_only"',
                flavour="klein",
            ),
        ),
    ),
    "krea2": Family(time_embedding="time_embed", time_unit=1, prompt_length=512),
    "ernie": Family(time_embedding="time_embedding"),
    "moss_image": Family(time_embedding="time_embedding", unguided_scale=1.0),
    # Its time embedding sees the batch's times and then as many times of clean conditioning images.
    "z_image_omni": Family(time_embedding="t_embedder.mlp", time_unit=1, rows_first=True),
    "kandinsky5_video": Family(time_embedding="time_embeddings"),
    "sanavideo": Family(time_embedding="time_embed.emb.timestep_embedder", prompt_length=300),
    # Mage-Flow packs a batch into one sequence, in which a sample's positions depend on its place.
    "mageflow": Family(time_embedding="time_text_embed.timestep_embedder", time_unit=1, whole_batch=True),
    "boogu_image": Family(time_embedding="time_caption_embed.timestep_embedder", time_unit=1, invert_sigmas="network"),
    # OmniGen's blocks see the time as a token; its other time embedding is for the output alone.
    "omnigen": Family(
        time_embedding="time_token",
        time_unit=1,
        invert_sigmas="batch",
        whole_batch=True,
        reads_words=True,
        unguided_scale=1.0,
        refusals=(
            Refusal("model_type", "lora", "the host cannot add an adapter to its network", 'set it to "full"'),
            Refusal(
                "twinflow_time_conditioning",
                "signed_time",
                "the host keeps its time above 0",
                'set it to "training_only"',
            ),
        ),
    ),
    "ideogram": Family(
        time_embedding="t_embedding",
        time_unit=1,
        stepped_by="call",
        asked_in_shares=True,
        unguided_scale=1.0,
        prompt_length=2048,
        refusals=(
            Refusal("model_type", "full|None|", "the host cannot save its network", 'set it to "lora"'),
            Refusal(
                "lora_type",
                "lycoris",
                "its file would name the host's layers, which the network of diffusers has under other names",
                'set it to "standard"',
                model_type="lora",
            ),
        ),
    ),
    # Its blocks see this embedding of the time beside one with weights of its own.
    "anima": Family(
        time_embedding="core.time_embed.t_embedder",
        time_unit=1,
        chooses_sampler=True,
        unguided_scale=1.0,
        text_destinations={"t5xxl_ids": ("t5xxl_ids",), "t5xxl_weights": ("t5xxl_weights",)},
    ),
    # Its network knows no time: target time and sign join the tokens of the picture.
    "zlab_i1": Family(
        time_embedding="x_embedder",
        stepped_by="even",
        ignores_time=True,
        refusals=(
            Refusal(
                "twinflow_time_conditioning",
                "signed_time",
                "its network makes nothing of the time that it is given",
                'set it to "training_only"',
            ),
            Refusal(
                "use_ema",
                "True|true",
                "the host averages a part of the network's weights, and fails when it saves the averages",
                "train a LoRA, or set it to false and twinflow_allow_no_ema_teacher to true",
                model_type="full",
            ),
        ),
    ),
}

# The host's second names of the same classes.
FAMILIES |= {name.replace("_", "-"): FAMILIES[name] for name in ("kandinsky5_image", "kandinsky5_video")}

DIFFUSION_FAMILIES = {  # families that predict epsilon or v, by diff2flow
    "sd1x": Family(time_embedding="time_embedding"),  # with prediction_type "v_prediction" also SD 2
    "sdxl": Family(time_embedding="time_embedding"),
    "kolors": Family(time_embedding="time_embedding"),
    "pixart": Family(
        time_embedding="adaln_single.emb.timestep_embedder",
        refusals=(
            Refusal("model_type", "lora", "the host leaves the adapter out of what it saves of it", 'set it to "full"'),
        ),
    ),
}

REFUSED = {  # the host's other families, and why
    "longcat_video": "its pipeline takes no prompt embeddings, so that validation could not draw with it",
    "minimaxh3": "it makes picture and sound at once, each with noise and a loss of its own",
    "wan_s2v": "it has not been proven with speech",
    "infinitetalk": "it has not been proven with speech",
    "cosmos": "it predicts clean samples of another noise process",
    "heartmula": "it predicts tokens, not a flow",
}


def predicts_flow(config: Mapping[str, Any]) -> bool:
    """Whether the run's model predicts a flow velocity; an unknown family counts as one that does."""
    overridden = config.get("prediction_type") in ("epsilon", "v_prediction", "sample")
    return config.get("model_family") not in DIFFUSION_FAMILIES and not overridden


def unsupported_reason(config: Mapping[str, Any], *, flow: bool) -> str | None:
    """Why this run's model cannot be trained; None when it can."""
    name, kind = config.get("model_family"), config.get("prediction_type")
    if flow and name not in FAMILIES:
        reason = REFUSED.get(str(name), "it has not been proven")
        return (
            f"model_family is {str(name)!r}, which TwinFlow does not train: {reason}. Use one of: "
            f'{", ".join(sorted(FAMILIES))}; or SimpleTuner\'s own TwinFlow with twinflow_implementation: "host".'
        )
    if not flow and name not in DIFFUSION_FAMILIES:
        return (
            f"model_family is {name!r} with diff2flow_enabled, which TwinFlow has not been proven on yet. "
            f"Use one of: {', '.join(sorted(DIFFUSION_FAMILIES))}; or a flow-matching family."
        )
    if not flow and kind not in (None, "", "epsilon", "v_prediction"):
        return (
            f"prediction_type is {kind!r}, which diff2flow cannot turn into a flow. "
            'Set it to "epsilon" or "v_prediction", as the base model predicts, or remove it.'
        )
    for refusal in (FAMILIES if flow else DIFFUSION_FAMILIES)[str(name)].refusals:
        if refusal.model_type not in (None, config.get("model_type", "full")):
            continue
        if refusal.flavour not in (None, config.get("model_flavour")):
            continue
        if re.fullmatch(refusal.value, str(config.get(refusal.key))):
            return (
                f"{refusal.key} is {config.get(refusal.key)!r} with model_family {config['model_family']!r}, which "
                f"TwinFlow does not train: {refusal.reason}. Way out: {refusal.way_out}."
            )
    return None
