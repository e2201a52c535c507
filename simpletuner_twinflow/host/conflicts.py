"""What TwinFlow cannot be combined with: a row a conflict, each with its own message, checked before a model loads."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.families import is_flow_matching, unsupported_reason
from simpletuner_twinflow.options import TwinFlowOptions

Config = Mapping[str, Any]
UNSET = (None, "", "None", "none", False)


class Conflict(NamedTuple):
    """A host key that excludes TwinFlow while `applies` holds for its value."""

    key: str
    applies: Callable[[Any], bool]
    reason: str
    way_out: str


def is_set(value: Any) -> bool:
    """Whether a host value is anything but one of its ways to say "off"."""
    return value not in UNSET


def is_positive(value: Any) -> bool:
    """Whether a numeric host value is above 0; unset counts as 0."""
    return is_set(value) and float(value) > 0


OWN_LOSS = "TwinFlow replaces the training loss, so this term would be left out"

HOST_CONFLICTS = (
    Conflict("distillation_method", is_set, "TwinFlow is its own few-step method", "set distillation_method to null"),
    Conflict(
        "scheduled_sampling_max_step_offset",
        is_positive,
        "scheduled sampling moves the time after TwinFlow has drawn it",
        "set it to 0",
    ),
    Conflict("scheduled_sampling_reflexflow", lambda value: value is True, OWN_LOSS, "set it to false"),
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
        lambda value: is_set(value) and int(value) > 1,
        "rows are dealt per rank",
        "set it to 1",
    ),
    Conflict("ramtorch", is_set, "streamed weights cannot be swapped for the teacher's", "set ramtorch to false"),
    Conflict(
        "musubi_blocks_to_swap", is_positive, "swapped blocks cannot be exchanged for the teacher's", "set it to 0"
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

DATASET_CONFLICTS = (
    Conflict("is_regularisation_data", is_set, "its parent target would be ignored", "remove the dataset"),
    Conflict("is_regularization_data", is_set, "its parent target would be ignored", "remove the dataset"),
    Conflict(
        "conditioning_type",
        lambda value: value in ("mask", "segmentation"),
        "a masked loss is not part of TwinFlow's losses",
        "remove the mask dataset",
    ),
    Conflict(
        "slider_strength",
        lambda value: value is not None and float(value) != 1.0,
        "a slider's sign would apply to the student and not to the teacher",
        "remove slider_strength",
    ),
)


def check_conflicts(config: Config, options: TwinFlowOptions) -> None:
    """Refuse a configuration that TwinFlow cannot honour.

    Raises:
        TwinFlowConfigError: One line: the key, the value found, the reason and the way out.
    """
    for problem in _problems(config, options):
        raise TwinFlowConfigError(problem)


def _problems(config: Config, options: TwinFlowOptions) -> Iterator[str]:
    flow = is_flow_matching(config)
    bridged = config.get("diff2flow_enabled") is True and options.allow_diff2flow
    if not flow and not bridged:
        yield (
            f"prediction_type of model_family {config.get('model_family')!r} is not flow matching "
            f"(diff2flow_enabled is {_json(config.get('diff2flow_enabled'))}, twinflow_allow_diff2flow is "
            f"{_json(options.allow_diff2flow)}). Use a flow-matching model, or set both diff2flow_enabled and "
            "twinflow_allow_diff2flow to true."
        )
    if not config.get("use_ema") and options.require_ema and not options.allow_no_ema_teacher:
        yield (
            "use_ema is false, but twinflow_require_ema is true: TwinFlow needs an EMA teacher. Set use_ema to true, "
            "or accept the student as teacher with twinflow_allow_no_ema_teacher: true or twinflow_require_ema: false."
        )
    if options.export_weights == "ema" and not config.get("use_ema"):
        yield (
            'twinflow_export_weights is "ema", but use_ema is false: there will be no EMA weights to export. Set '
            'use_ema to true, or twinflow_export_weights to "auto" or "student".'
        )
    # The host's own implementation is asked no more than the feature's documentation asks.
    conflicts = HOST_CONFLICTS if flow else HOST_CONFLICTS + DIFFUSION_CONFLICTS
    if config.get("model_type") == "full":
        conflicts += FULL_CONFLICTS
    for conflict in conflicts if options.implementation == "paper" else HOST_CONFLICTS[:2]:
        value = config.get(conflict.key)
        if conflict.applies(value):
            yield _describe(conflict, value)
    if config.get("model_type") == "lora" and options.implementation == "paper":
        yield from _adapter_problems(config)
    yield from _dataset_problems(config.get("data_backend_config"))
    if options.implementation == "paper" and (reason := unsupported_reason(config, flow=flow)):
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
            f"lora_init_type is {_json(init)} and base_model_precision {_json(precision)}: it changes the base's "
            'weights, which quantised ones do not allow. Way out: set base_model_precision to "no_change", or '
            'lora_init_type to "default" or "gaussian".'
        )
    if is_set(config.get("init_lora")):
        yield (
            f"lora_init_type is {_json(init)} and init_lora {_json(config['init_lora'])}: it takes its own start out "
            "of the base's weights, on which the given adapter then means something else. Way out: set lora_init_type "
            'to "default", or remove init_lora.'
        )


def _dataset_problems(path: Any) -> Iterator[str]:
    if not path or not Path(path).is_file():
        return  # the host has its own message for that
    for dataset in json.loads(Path(path).read_text(encoding="utf-8")):
        if dataset.get("disabled"):
            continue
        for conflict in DATASET_CONFLICTS:
            value = dataset.get(conflict.key)
            if conflict.applies(value):
                yield f"{_describe(conflict, value)} (dataset {dataset.get('id')!r} in {path})"


def _describe(conflict: Conflict, value: Any) -> str:
    return (
        f"{conflict.key} is {_json(value)}, which cannot be combined with twinflow_enabled: {conflict.reason}. "
        f"Way out: {conflict.way_out}."
    )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
