"""The host's keys that TwinFlow cannot be combined with, a row each; `conflicts` checks them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from simpletuner_twinflow.options import FALSE_WORDS

OFF_WORDS = ("", "none", "0", "0.0", *FALSE_WORDS)


def plain(value: Any) -> str:
    """A host value that is a word, as the host compares it: without capitals and spaces around it."""
    return str(value).strip().lower()


def is_set(value: Any) -> bool:
    """Whether a host value means anything but "off"."""
    return value not in ([], {}) and plain(value) not in OFF_WORDS


def is_off(value: Any) -> bool:
    """Whether a host value means "off"."""
    return not is_set(value)


def is_lycoris(value: Any) -> bool:
    """Whether a `lora_type` is the host's LyCORIS."""
    return str(value).lower() == "lycoris"


def is_positive(value: Any) -> bool:
    """Whether a host value is a number above 0; the host itself refuses what is no number."""
    return (as_number(value) or 0.0) > 0


def is_several(value: Any) -> bool:
    """Whether a host value is a number above 1: of processes that share something."""
    return (as_number(value) or 1) > 1


def as_number(value: Any) -> float | None:
    """A host value as a number; None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


class Conflict(NamedTuple):
    """A host key that excludes TwinFlow while `applies` holds for its value."""

    key: str
    reason: str
    way_out: str = "set it to false"
    applies: Callable[[Any], bool] = is_set

    def without_lora(self) -> "Conflict":
        """The same row without the way out that a LoRA would be."""
        return self._replace(way_out=self.way_out.removesuffix(OR_LORA))


OR_LORA = ", or train a LoRA"
MOVED_TIMES = "scheduled sampling moves the time after TwinFlow has drawn it"
OWN_LOSS = "TwinFlow replaces the training loss, so this term would be left out"
OWN_WEIGHTS = "TwinFlow's terms have weights of their own"
WHOLE_PATH = "TwinFlow needs times from the whole path"
NO_FSDP1 = "SimpleTuner cannot start FSDP 1, for which Accelerate refuses its fsdp_reshard_after_forward"
OTHER_SHARDS = "it keeps sharded weights in a way of its own, out of which none can be lent to the teacher"
WITHOUT_SHARDS = "choose FSDP 2 (fsdp_enable and fsdp_version 2) or plain data-parallel training"
STREAMED = "weights that are trained and streamed to the accelerator cannot be swapped for the teacher's"
NO_SNR = "TwinFlow's terms are not weighted by the SNR"

# What the feature's documentation asks, and so what the host's own implementation is checked for.
DOCUMENTED_CONFLICTS = (
    Conflict("distillation_method", "TwinFlow is its own few-step method", "set distillation_method to null"),
    Conflict("scheduled_sampling_max_step_offset", MOVED_TIMES, "set it to 0", is_positive),
)

HOST_CONFLICTS = (
    *DOCUMENTED_CONFLICTS,
    Conflict("scheduled_sampling_reflexflow", OWN_LOSS),
    Conflict(
        "controlnet",
        "the ControlNet alone would be trained, and the base that draws with it never learns the target time",
        "set controlnet to false",
    ),
    Conflict("mixflow_enabled", "MixFlow moves the noisy sample off TwinFlow's path"),
    Conflict("diffusion_blocks_config", "a block knows one span of times, TwinFlow needs all", "remove it"),
    Conflict("xm_enabled", "XM repeats the batch inside the model", "set xm_enabled to false"),
    Conflict("crepa_self_flow", "it needs the EMA teacher at times of its own"),
    Conflict(
        "crepa_feature_source",
        "see crepa_self_flow",
        'set it to "encoder"',
        lambda value: plain(value) in ("self_flow", "selfflow"),
    ),
    Conflict("nextlat_enabled", OWN_LOSS, "set nextlat_enabled to false"),
    Conflict("internal_guidance_enabled", OWN_LOSS, "set internal_guidance_enabled to false"),
    Conflict("loss_type", OWN_LOSS, 'set loss_type to "l2"', lambda value: plain(value) in ("huber", "smooth_l1")),
    Conflict(
        "snr_weight", OWN_WEIGHTS, "remove it, or scale learning_rate", lambda value: as_number(value) not in (None, 1)
    ),
    Conflict("input_perturbation", "TwinFlow needs the noise that the path was made with", "set it to 0", is_positive),
    Conflict("flow_custom_timesteps", WHOLE_PATH, "remove it"),
    Conflict("flux_fast_schedule", WHOLE_PATH),
    Conflict("peft_lora_mode", "its weights depend on the step", 'use "standard"', lambda value: value == "singlora"),
    Conflict("train_text_encoder", "TwinFlow trains the denoiser alone", "set train_text_encoder to false"),
)

UNET_FAMILIES = ("kolors", "sd1x", "sdxl")  # the others' networks are transformers

# The host's auxiliary losses that are carried over: they are of the data, which a run by its own samples has none of.
AUXILIARY = ("crepa_enabled", "urepa_enabled", "layersync_enabled")


def is_left_out(key: str, config: Mapping[str, Any]) -> bool:
    """Whether the host, which warns of it, leaves an auxiliary loss out: one for networks of the other kind.

    Args:
        key: any of its keys.
        config: the host's keys.
    """
    of_unet = config.get("model_family") in UNET_FAMILIES
    return key == ("crepa_enabled" if of_unet else "urepa_enabled")


# Environment variables that the launcher sets for what an accelerate config switches on.
LAUNCHER_CONFLICTS = (
    Conflict("ACCELERATE_USE_MEGATRON_LM", OTHER_SHARDS, WITHOUT_SHARDS),
    *(
        Conflict(
            f"PARALLELISM_CONFIG_{way}_SIZE",
            "Accelerate would share out tokens or weights, of which SimpleTuner's own keys say nothing",
            "set it to 1 in the accelerate config; context_parallel_size in the run's config shares tokens",
            is_several,
        )
        for way in ("CP", "TP", "SP")
    ),
)

# Of a run that FSDP 2 shards: each pass is one of all ranks together.
ALONE = "SimpleTuner makes these passes on one rank alone, which under FSDP would wait for the others for ever"
PROJECTORS_APART = "its projector has no gradient on ranks without rows of the data, and FSDP adds up those of all"
SHARDED_CONFLICTS = (
    Conflict("fsdp_version", NO_FSDP1, "set fsdp_version to 2", lambda value: as_number(value) not in (None, 2)),
    Conflict("validation_disable", ALONE, "set it to true, and draw with what is exported", is_off),
    Conflict("eval_steps_interval", ALONE, "remove it", is_positive),
    Conflict("fsdp_cpu_offload", "it has not been tried with weights and averages on the CPU"),
    Conflict("crepa_enabled", PROJECTORS_APART),
    Conflict("urepa_enabled", PROJECTORS_APART),
    Conflict("tread_config", "passes that repeat a route have not been tried under FSDP", "remove it"),
    Conflict("musubi_blocks_to_swap", "swapped blocks have not been tried under FSDP", "set it to 0", is_positive),
    Conflict("ramtorch", "it has not been tried under FSDP"),
    Conflict(
        "lora_type",
        "LyCORIS has not been tried under FSDP",
        'use "standard", or train without FSDP',
        is_lycoris,
    ),
)

# Of a full fine-tune. An adapter's frozen base may be quantised or streamed, since teacher and student share it.
FULL_CONFLICTS = (
    Conflict("ramtorch", STREAMED, f"set ramtorch to false{OR_LORA}"),
    Conflict("musubi_blocks_to_swap", STREAMED, f"set it to 0{OR_LORA}", is_positive),
    Conflict(
        "base_model_precision",
        "the teacher is an average of the trained weights, and quantised ones have none",
        f'set it to "no_change"{OR_LORA}',
        lambda value: is_set(value) and value != "no_change",
    ),
)

# Of models that predict epsilon or v; the host itself leaves these out for a flow.
DIFFUSION_CONFLICTS = (
    Conflict("snr_gamma", NO_SNR, "remove it"),
    Conflict("use_soft_min_snr", NO_SNR),
    Conflict("offset_noise", "few-step sampling starts in noise without an offset"),
    Conflict("timestep_bias_strategy", WHOLE_PATH, 'use "earlier", "later" or "none"', lambda value: value == "range"),
    Conflict("refiner_training", "a refiner knows a part of the times, TwinFlow needs all"),
)

# Of a LoRA: the host itself fails. See host/checkpoints/adapter_file.py for those that can be trained.
ADAPTER_CONFLICTS = (
    Conflict(
        "lora_init_type",
        "the host gives PEFT no settings for it, so the adapter cannot be made",
        'use "default", "gaussian", "pissa" or "olora"',
        lambda value: value == "loftq",
    ),
    Conflict(
        "use_dora",
        'the host asks PEFT for an initialisation "default" that does not exist, so the adapter cannot be made',
        "set use_dora to false",
    ),
)
# Of a full fine-tune with an EMA, in the plain host too: the projector is part of the network that it trains.
EMA_CONFLICTS = tuple(
    Conflict(
        key,
        "SimpleTuner cannot save the EMA of a full fine-tune with its projector (it fails at the first checkpoint)",
        f"set {key} to false{OR_LORA}",
    )
    for key in ("crepa_enabled", "urepa_enabled")
)
MOVES_BASE = ("pissa", "olora")  # the values of lora_init_type that change the frozen base weights

NO_SOUND = "TwinFlow trains this model_family's pictures and videos, and not its sound"
# In a data config of a family that makes sound too; the host takes an "audio" without "auto_split" for its being on.
SOUND_CONFLICTS = (
    Conflict("dataset_type", NO_SOUND, "remove the dataset", lambda value: value == "audio"),
    Conflict(
        "audio",
        NO_SOUND,
        "remove it, or set auto_split in it to false",
        lambda value: isinstance(value, dict) and bool(value.get("auto_split", True)),
    ),
    Conflict("s2v_datasets", NO_SOUND, "remove it", bool),
)
SHARDED_DATASET_CONFLICTS = tuple(
    Conflict(key, "its passes are not those of the other ranks' rows, and FSDP makes each together", "remove it", bool)
    for key in ("is_regularisation_data", "is_regularization_data")
)
# In a data config the host takes any text for true.
DATASET_CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        "slider_strength",
        "a slider's sign would apply to the student and not to the teacher",
        "set it to 1.0 or remove it",
        lambda value: value is not None and as_number(value) != 1.0,
    ),
)
