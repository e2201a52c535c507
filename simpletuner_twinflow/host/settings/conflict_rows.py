"""The host's keys that TwinFlow cannot be combined with, a row each; `conflicts` asks for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from simpletuner_twinflow.options import FALSE_WORDS

OFF_WORDS = ("", "none", "0", "0.0", *FALSE_WORDS)


class Conflict(NamedTuple):
    """A host key that excludes TwinFlow while `applies` holds for its value."""

    key: str
    applies: Callable[[Any], bool]
    reason: str
    way_out: str


def is_set(value: Any) -> bool:
    """Whether a host value is anything but one of its ways to say "off"."""
    return str(value).strip().lower() not in OFF_WORDS


def is_positive(value: Any) -> bool:
    """Whether a numeric host value is above 0; unset counts as 0, and on anything else the host has its own word."""
    return (as_number(value) or 0.0) > 0


def as_number(value: Any) -> float | None:
    """A host value as a number; None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


WITHOUT_SHARDS = "choose plain data-parallel training in the accelerate config"
OWN_LOSS = "TwinFlow replaces the training loss, so this term would be left out"

HOST_CONFLICTS = (
    Conflict("distillation_method", is_set, "TwinFlow is its own few-step method", "set distillation_method to null"),
    Conflict(
        "scheduled_sampling_max_step_offset",
        is_positive,
        "scheduled sampling moves the time after TwinFlow has drawn it",
        "set it to 0",
    ),
    Conflict("scheduled_sampling_reflexflow", is_set, OWN_LOSS, "set it to false"),
    Conflict("controlnet", is_set, "TwinFlow's passes do not go through a ControlNet", "set controlnet to false"),
    Conflict("mixflow_enabled", is_set, "MixFlow moves the noisy sample off TwinFlow's path", "set it to false"),
    Conflict("diffusion_blocks_config", is_set, "a block knows one span of times, TwinFlow needs all", "remove it"),
    Conflict("xm_enabled", is_set, "XM repeats the batch inside the model", "set xm_enabled to false"),
    Conflict("crepa_self_flow", is_set, "it needs the EMA teacher at times of its own", "set it to false"),
    Conflict("crepa_feature_source", lambda value: value == "self_flow", "see crepa_self_flow", 'set it to "encoder"'),
    Conflict("crepa_enabled", is_set, OWN_LOSS, "set crepa_enabled to false"),
    Conflict("urepa_enabled", is_set, OWN_LOSS, "set urepa_enabled to false"),
    Conflict("irepa_enabled", is_set, OWN_LOSS, "set irepa_enabled to false"),
    Conflict("layersync_enabled", is_set, OWN_LOSS, "set layersync_enabled to false"),
    Conflict("nextlat_enabled", is_set, OWN_LOSS, "set nextlat_enabled to false"),
    Conflict("internal_guidance_enabled", is_set, OWN_LOSS, "set internal_guidance_enabled to false"),
    Conflict("loss_type", lambda value: value in ("huber", "smooth_l1"), OWN_LOSS, 'set loss_type to "l2"'),
    Conflict("hidream_use_load_balancing_loss", is_set, OWN_LOSS, "set it to false"),
    Conflict("hidream_load_balancing_loss_weight", is_positive, OWN_LOSS, "remove it"),
    Conflict(
        "snr_weight",
        lambda value: as_number(value) not in (None, 1.0),
        "TwinFlow's terms have weights of their own",
        "remove it, or scale learning_rate",
    ),
    Conflict("input_perturbation", is_positive, "TwinFlow needs the noise that the path was made with", "set it to 0"),
    Conflict("flow_custom_timesteps", is_set, "TwinFlow needs times from the whole path", "remove it"),
    Conflict("flux_fast_schedule", is_set, "TwinFlow needs times from the whole path", "set it to false"),
    Conflict("tread_config", is_set, "TREAD drops tokens by chance, teacher and student would differ", "remove it"),
    Conflict(
        "lora_type",
        lambda value: str(value).lower() == "lycoris",
        "the EMA teacher cannot be swapped into a LyCORIS network",
        'set lora_type to "standard"',
    ),
    Conflict("peft_lora_mode", lambda value: value == "singlora", "its weights depend on the step", 'use "standard"'),
    Conflict("train_text_encoder", is_set, "TwinFlow trains the denoiser alone", "set train_text_encoder to false"),
    Conflict("fsdp_enable", is_set, "sharded weights cannot be swapped for the teacher's", "train without FSDP"),
    Conflict(
        "deepspeed_config", is_set, "sharded weights cannot be swapped for the teacher's", "train without DeepSpeed"
    ),
    Conflict(
        "context_parallel_size",
        lambda value: (as_number(value) or 1) > 1,
        "roles are drawn per rank",
        "set it to 1",
    ),
    Conflict("ramtorch", is_set, "streamed weights cannot be swapped for the teacher's", "set ramtorch to false"),
    Conflict(
        "musubi_blocks_to_swap", is_positive, "swapped blocks cannot be exchanged for the teacher's", "set it to 0"
    ),
)

# What an accelerate config switches on behind the host's keys; variables that the launcher sets for the trainer.
LAUNCHER_CONFLICTS = (
    Conflict("ACCELERATE_USE_FSDP", is_set, "sharded weights cannot be swapped for the teacher's", WITHOUT_SHARDS),
    Conflict("ACCELERATE_USE_DEEPSPEED", is_set, "sharded weights cannot be swapped for the teacher's", WITHOUT_SHARDS),
    Conflict(
        "ACCELERATE_USE_MEGATRON_LM", is_set, "sharded weights cannot be swapped for the teacher's", WITHOUT_SHARDS
    ),
)

# Of a full fine-tune. An adapter's frozen base is never swapped, so it may be quantised.
FULL_CONFLICTS = (
    Conflict(
        "base_model_precision",
        lambda value: is_set(value) and value != "no_change",
        "the teacher is an average of the trained weights, and quantised ones have none",
        'set it to "no_change", or train a LoRA',
    ),
)

# Of models that predict epsilon or v; the host itself leaves these out for a flow.
DIFFUSION_CONFLICTS = (
    Conflict("snr_gamma", is_set, "TwinFlow's terms are not weighted by the SNR", "remove it"),
    Conflict("use_soft_min_snr", is_set, "TwinFlow's terms are not weighted by the SNR", "set it to false"),
    Conflict("offset_noise", is_set, "few-step sampling starts in noise without an offset", "set it to false"),
    Conflict(
        "timestep_bias_strategy",
        lambda value: value == "range",
        "TwinFlow needs times from the whole path",
        'use "earlier", "later" or "none"',
    ),
    Conflict("refiner_training", is_set, "a refiner knows a part of the times, TwinFlow needs all", "set it to false"),
)

# Of a LoRA, in which the host itself fails; see host/adapter_file.py for those that can be trained.
ADAPTER_CONFLICTS = (
    Conflict(
        "lora_init_type",
        lambda value: value == "loftq",
        "the host gives PEFT no settings for it, so the adapter cannot be made",
        'use "default", "gaussian", "pissa" or "olora"',
    ),
    Conflict(
        "use_dora",
        is_set,
        'the host asks PEFT for an initialisation "default" that does not exist, so the adapter cannot be made',
        "set use_dora to false",
    ),
)
MOVES_BASE = ("pissa", "olora")  # the values of lora_init_type that change the frozen base weights

# The host reads a data config's switches as Python does: any text is "on".
DATASET_CONFLICTS = (
    Conflict("is_regularisation_data", bool, "its parent target would be ignored", "remove the dataset"),
    Conflict("is_regularization_data", bool, "its parent target would be ignored", "remove the dataset"),
    Conflict(
        "conditioning_type",
        lambda value: value in ("mask", "segmentation"),
        "a masked loss is not part of TwinFlow's losses",
        "remove the mask dataset",
    ),
    Conflict(
        "slider_strength",
        lambda value: value is not None and as_number(value) != 1.0,
        "a slider's sign would apply to the student and not to the teacher",
        "set it to 1.0 or remove it",
    ),
)
