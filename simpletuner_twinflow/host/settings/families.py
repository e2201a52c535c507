"""The host's model families that TwinFlow is tested with, and what the host's classes do not tell of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Refusal(NamedTuple):
    """A value of a host key that a family cannot be trained with."""

    key: str
    value: str  # a regular expression for the whole value
    reason: str
    way_out: str
    model_type: str | None = None  # refused with this one only


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the host's classes do not tell of a family."""

    time_embedding: str  # submodule of the network; its output embeds the time
    time_unit: int = 1000  # what the network calls the time of noise, 1 or 1000
    rows_first: bool = False  # whether the time embedding sees a batch's rows and then fixed times of the network's own
    # Where time is 1 - t. "network": in network and pipeline, not in batch["sigmas"]; "batch": there too.
    invert_sigmas: Literal["no", "network", "batch"] = "no"
    # Whether the host has time and batch["sigmas"] run towards the data in training alone: the network and its pipeline
    # have the time 1 at noise, and that is what TwinFlow trains.
    trained_backwards: bool = False
    one_sample_a_pass: bool = False  # whether the host gives its network the samples of a batch one by one
    prompt_has_size: bool = False  # whether a prompt is encoded for the size of its picture; see training/cosmos3.py
    makes_sound: bool = False  # whether its batches may hold sound, which TwinFlow does not train
    whole_batch: bool = False  # whether a sample's answer depends on its place or its neighbours in the batch
    reads_words: bool = False  # whether it reads the prompt's words when it predicts, not embeddings
    # Batch keys that are zeros without a prompt, in training and in its pipeline's guidance: there is no empty prompt.
    zeros_without_prompt: tuple[str, ...] = ()
    predicts_data: bool = False  # whether the host makes a clean sample of the velocity, x_t - sigma v
    masks_loss: bool = False  # whether the host's own loss leaves out what fills a song up to its batch's length
    makes_scheduler: bool = False  # whether its pipeline makes a scheduler in each call, whatever it has been given
    sings: bool = False  # whether it makes music, of which there are no pictures to show
    text_destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see training/batches.py
    unguided_scale: float = 0.0  # the pipeline's guidance scale at which it follows the prompt alone
    prompt_length: int | None = None  # tokens of a prompt, where the host ignores its config
    embeds_guidance: bool = False  # whether flavours embed the guidance scale that the host trains with
    network_config: Mapping[str, Any] = field(default_factory=dict)  # what the pipeline reads there and the host omits
    refusals: tuple[Refusal, ...] = ()


FAMILIES = {
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
        refusals=(Refusal("model_flavour", "klein", "its network has a target time of its own", 'use "klein-base"'),),
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
    "ace_step": Family(
        time_embedding="timestep_embedder",
        zeros_without_prompt=("encoder_hidden_states", "speaker_embeds", "lyric_token_ids"),
        predicts_data=True,
        masks_loss=True,
        makes_scheduler=True,
        sings=True,
        refusals=(
            Refusal(
                "model_flavour",
                "v15-(turbo|base|sft)",
                "its songs are made in a loop of the model repository's own code, whose steps the few-step scheduler "
                "cannot take",
                'use "base", which is ACE-Step 1',
            ),
            Refusal(
                "pretrained_model_name_or_path",
                r"(?i:.*(ace-step1\.5|acestep-v15-).*)",
                "it is ACE-Step 1.5, whose songs are made in a loop of the model repository's own code",
                "use ACE-Step 1",
            ),
            Refusal(
                "model_type",
                "full|None|",
                "the host cannot save a full fine-tune of it, since its pipeline has no method for that",
                'set it to "lora"',
            ),
        ),
    ),
    # Its prompts are what a language model sings to them, encoded sample by sample.
    "minimaxmusic": Family(
        time_embedding="time_embed",
        time_unit=1,
        invert_sigmas="network",
        zeros_without_prompt=("encoder_hidden_states",),
        sings=True,
        unguided_scale=1.0,
        refusals=(
            Refusal(
                "minimax_music_train_component",
                "language_model",
                "its language model predicts tokens, not a flow",
                'set it to "transformer"',
            ),
            Refusal(
                "twinflow_time_conditioning",
                "signed_time",
                "the host takes a time beyond 0 to 1 for thousandths",
                'set it to "training_only"',
            ),
            Refusal(
                "model_type",
                "full|None|",
                "its pipeline is a modular one, which TwinFlow cannot export in stock classes",
                'set it to "lora"',
            ),
        ),
    ),
    "cosmos3": Family(
        time_embedding="time_embedder",
        trained_backwards=True,
        one_sample_a_pass=True,
        prompt_has_size=True,
        makes_sound=True,
        unguided_scale=1.0,
        refusals=(
            Refusal(
                "model_flavour",
                "super-i2v",
                "its first frame is a picture without noise that its loss leaves out, and a masked loss is not part of "
                "TwinFlow's losses",
                'use "super"',
            ),
            Refusal(
                "model_type",
                "full|None|",
                "the host trains the half of its network that draws, and no pipeline can be made of that half",
                'set it to "lora", with lora_type "lycoris"',
            ),
            Refusal(
                "lora_type",
                "standard|None|",
                "the host cannot save a PEFT adapter of it, since its pipeline has no method for that",
                'set it to "lycoris", with a lycoris_config',
                model_type="lora",
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
    "ltxvideo2": "it makes picture and sound at once, each with noise and a loss of its own",
    "minimaxh3": "it makes picture and sound at once, each with noise and a loss of its own",
    "ideogram": "its pipeline steps by itself, so the few-step scheduler cannot take its place",
    "zlab_i1": "its pipeline steps by itself, so the few-step scheduler cannot take its place",
    "anima": "its pipeline steps with samplers of its own, so the few-step scheduler cannot take their place",
    "wan_s2v": "it has not been proven with speech",
    "infinitetalk": "it has not been proven with speech",
    "cosmos": "it predicts clean samples of another noise process",
    "heartmula": "it predicts tokens, not a flow",
}


class Assisted(NamedTuple):
    """Flavours of a family that the host trains with a frozen adapter on, and draws with the adapter off."""

    default_flavour: str  # of the family
    paths: Mapping[str, str | None]  # flavour -> the adapter it has by default


_Z_IMAGE = "ostris/zimage_turbo_training_adapter"
ASSISTED = {
    "boogu_image": Assisted("v0.1-turbo", {"v0.1-turbo": None, "v0.1-turbo-fp8": None}),
    "ernie": Assisted("base", {"turbo": None}),
    "flux": Assisted("krea", {"schnell": "ostris/FLUX.1-schnell-training-adapter"}),
    "flux3_image": Assisted("klein-base", {"klein": "SimpleTuner/flux-3-klein-image-training-assistant"}),
    "qwen_image": Assisted("v2.1", {"v2.0": None, "v2.1": "SimpleTuner/Qwen-Image-2.1-training-assistant-v3"}),
    "z_image": Assisted("turbo-ostris-v2", {"turbo": _Z_IMAGE, "turbo-ostris-v2": _Z_IMAGE}),
}
# Measured in docs/families.md.
ASSISTANT = (
    "assistant_lora_path is {path!r} (the host's default for some flavours): a frozen adapter that is on in training "
    "and off in drawing, so that the few-step model would be learnt on one network and drawn with another. "
    "Set disable_assistant_lora to true, which trains the network that is drawn with, or use another model_flavour."
)


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
        if re.fullmatch(refusal.value, str(config.get(refusal.key))):
            return (
                f"{refusal.key} is {config.get(refusal.key)!r} with model_family {config['model_family']!r}, which "
                f"TwinFlow does not train: {refusal.reason}. Way out: {refusal.way_out}."
            )
    return None


def assistant_of(config: Mapping[str, Any]) -> str | None:
    """The frozen adapter that the host would train this run with, if any."""
    assisted = ASSISTED.get(str(config.get("model_family")))
    disabled = str(config.get("disable_assistant_lora")).lower() in ("true", "1", "yes", "on")  # as given or parsed
    if assisted is None or config.get("model_type") != "lora" or disabled:
        return None
    flavour = str(config.get("model_flavour") or "")
    if not flavour and not config.get("pretrained_model_name_or_path"):
        flavour = assisted.default_flavour
    if flavour not in assisted.paths:
        return None
    return config.get("assistant_lora_path") or assisted.paths[flavour]
