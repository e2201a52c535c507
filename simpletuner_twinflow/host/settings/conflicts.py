"""What TwinFlow cannot be combined with: a row a conflict, each with its own message, checked before a model loads."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.settings.families import predicts_flow, unsupported_reason
from simpletuner_twinflow.options import FALSE_WORDS, TwinFlowOptions

Config = Mapping[str, Any]
LOOKED_UP = ("model_family", "model_flavour")
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


def check_conflicts(config: Config, options: TwinFlowOptions) -> None:
    """Refuse a configuration that TwinFlow cannot honour.

    Raises:
        TwinFlowConfigError: A line for each conflict: the key, the value found, the reason and the way out.
    """
    if problems := conflicts(config, options):
        raise TwinFlowConfigError(*problems)


def conflicts(config: Config, options: TwinFlowOptions) -> list[str]:
    """A line on each thing in a TwinFlow run's configuration that TwinFlow cannot honour.

    Args:
        config: the host's keys, parsed or as they stand in a config; a key that is missing has the host's default.
        options: of the run.
    """
    # The host's keys come here unchecked, and these two are looked up in tables, which takes no list or object.
    names = {key: shown(config[key]) for key in LOOKED_UP if isinstance(config.get(key), list | dict)}
    return list(_problems({**config, **names}, options))


def _problems(config: Config, options: TwinFlowOptions) -> Iterator[str]:
    flow = predicts_flow(config)
    use_ema = is_set(config.get("use_ema"))
    schnell = config.get("model_family") == "flux" and config.get("model_flavour") == "schnell"
    bridged = is_set(config.get("diff2flow_enabled")) and options.allow_diff2flow
    if not flow and not bridged:
        yield (
            f"prediction_type of model_family {config.get('model_family')!r} is not flow matching "
            f"(diff2flow_enabled is {_found(config, 'diff2flow_enabled')}, twinflow_allow_diff2flow is "
            f"{shown(options.allow_diff2flow)}). Use a flow-matching model, or set both diff2flow_enabled and "
            "twinflow_allow_diff2flow to true."
        )
    if not use_ema and options.require_ema and not options.allow_no_ema_teacher:
        yield (
            f"use_ema is {_found(config, 'use_ema')}, but twinflow_require_ema is true: TwinFlow needs an EMA teacher. "
            "Set use_ema to true, or accept the student as teacher with twinflow_allow_no_ema_teacher: true or "
            "twinflow_require_ema: false."
        )
    if options.export_weights == "ema" and not use_ema:
        yield (
            f'twinflow_export_weights is "ema", but use_ema is {_found(config, "use_ema")}: there will be no EMA '
            'weights to export. Set use_ema to true, or twinflow_export_weights to "auto" or "student".'
        )
    # The host's own implementation is asked no more than the feature's documentation asks.
    rows = HOST_CONFLICTS if flow else HOST_CONFLICTS + DIFFUSION_CONFLICTS
    if config.get("model_type", "full") == "full":
        rows += FULL_CONFLICTS
    for conflict in rows if options.implementation == "paper" else HOST_CONFLICTS[:2]:
        value = config.get(conflict.key)
        if conflict.applies(value) and not (schnell and conflict.key == "flux_fast_schedule"):
            yield _describe(conflict, value)
    if schnell and (is_set(config.get("flux_fast_schedule")) or not is_set(config.get("i_know_what_i_am_doing"))):
        yield (
            f'model_flavour is "schnell" while flux_fast_schedule is {_found(config, "flux_fast_schedule")}: '
            "SimpleTuner trains it on that schedule's few times, and TwinFlow needs times from the whole path. Way "
            "out: set flux_fast_schedule to false and i_know_what_i_am_doing to true, which SimpleTuner asks for "
            'then, or use model_flavour "dev".'
        )
    if options.implementation == "paper":
        for conflict in LAUNCHER_CONFLICTS:
            if conflict.applies(value := os.environ.get(conflict.key, "")):
                yield _describe(conflict, value)
    if config.get("model_type") == "lora" and options.implementation == "paper":
        yield from _adapter_problems(config)
    yield from _dataset_problems(config.get("data_backend_config"))
    # A model that is neither a flow nor bridged has had its line above.
    if options.implementation == "paper" and (flow or bridged) and (reason := unsupported_reason(config, flow=flow)):
        yield reason


def _adapter_problems(config: Config) -> Iterator[str]:
    """What an adapter cannot be started as."""
    for conflict in ADAPTER_CONFLICTS:
        if conflict.applies(config.get(conflict.key)):
            yield _describe(conflict, config.get(conflict.key))
    init = config.get("lora_init_type")
    if init not in MOVES_BASE:
        return
    if is_set(precision := config.get("base_model_precision")) and precision != "no_change":
        yield (
            f"lora_init_type is {shown(init)} and base_model_precision {shown(precision)}: it changes the base's "
            'weights, which quantised ones do not allow. Way out: set base_model_precision to "no_change", or '
            'lora_init_type to "default" or "gaussian".'
        )
    if is_set(config.get("init_lora")):
        yield (
            f"lora_init_type is {shown(init)} and init_lora {shown(config['init_lora'])}: it takes its own start out "
            "of the base's weights, on which the given adapter then means something else. Way out: set lora_init_type "
            'to "default", or remove init_lora.'
        )


def _dataset_problems(path: Any) -> Iterator[str]:
    if not isinstance(path, str) or not _is_file(path):
        return  # the host has its own message for that
    where = f"data_backend_config is {shown(path)}"
    try:
        datasets = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        yield f"{where}, which cannot be read as JSON: {error}. Mend the file."
        return
    if not isinstance(datasets, list) or not all(isinstance(dataset, dict) for dataset in datasets):
        yield f"{where}, which must hold a JSON list of objects, one a dataset; found {_kind(datasets)}. Mend the file."
        return
    for dataset in datasets:
        if dataset.get("disabled") or dataset.get("disable"):
            continue  # either word, as the host asks
        for conflict in DATASET_CONFLICTS:
            value = dataset.get(conflict.key)
            if conflict.applies(value):
                yield f"{_describe(conflict, value)} (dataset {dataset.get('id')!r} in {path})"


def _is_file(path: str) -> bool:
    """Whether this names a file; what is too long for a path, or no path at all, does not."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _describe(conflict: Conflict, value: Any) -> str:
    return (
        f"{conflict.key} is {shown(value)}, which cannot be combined with twinflow_enabled: {conflict.reason}. "
        f"Way out: {conflict.way_out}."
    )


def _found(config: Config, key: str) -> str:
    """What the user wrote; the host's switches are false where nothing is written."""
    value = config.get(key)
    return "false" if value is None else shown(value)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        strange = next(item for item in value if not isinstance(item, dict))
        return f"{shown(strange)} in the list"
    return "an object" if isinstance(value, dict) else shown(value)
