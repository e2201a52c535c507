"""The settings of a run that TwinFlow cannot be combined with, found before a model loads."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings import conflict_rows, context_parallel
from simpletuner_twinflow.host.settings.conflict_rows import Conflict, is_left_out, is_lycoris, is_set
from simpletuner_twinflow.host.settings.data_config import (
    DataConfigError,
    datasets_of,
    has_regularisation,
    only_regularisation,
)
from simpletuner_twinflow.host.settings.deepspeed_config import deepspeed_problems
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES, predicts_flow, unsupported_reason
from simpletuner_twinflow.host.settings.first_frame import DATASET_CONFLICTS, first_frame_problems, has_first_frame
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.settings.lycoris_config import DEFAULT_FILE, lycoris_problems
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.options import TwinFlowOptions

Config = Mapping[str, Any]


def conflicts(config: Config, options: TwinFlowOptions) -> Iterator[str]:
    """A line on each of a TwinFlow run's settings that TwinFlow cannot be combined with.

    Args:
        config: the host's keys, parsed or as they are in a config; a missing key has the host's default.
        options: of the run.
    """
    # The host's keys are not checked yet, and these two are looked up in tables, where a list or object cannot be.
    looked_up = ("model_family", "model_flavour")
    names = {key: shown(config[key]) for key in looked_up if isinstance(config.get(key), list | dict)}
    config = {**config, **names}
    config = {key: value for key, value in config.items() if not is_left_out(key, config)}
    flow = predicts_flow(config)
    use_ema = is_set(config.get("use_ema"))
    schnell = config.get("model_family") == "flux" and config.get("model_flavour") == "schnell"
    bridged = is_set(config.get("diff2flow_enabled")) and options.allow_diff2flow
    if not flow and not bridged:
        yield (
            f"prediction_type of model_family {config.get('model_family')!r} is not flow matching "
            f"(the key is {shown(config.get('prediction_type'))}, diff2flow_enabled "
            f"{_found(config, 'diff2flow_enabled')}, twinflow_allow_diff2flow "
            f"{shown(options.allow_diff2flow)}). Use a flow-matching model, or set both diff2flow_enabled and "
            "twinflow_allow_diff2flow to true."
        )
    steps = (options.role_shares or {}).get(Role.sampler_step, 0.0)
    several = options.target_step_count > 1 and options.time_conditioning == "training_only"
    if options.implementation == "paper" and flow and several and options.role_shares is not None and steps == 0:
        yield (
            f"twinflow_role_shares gives sampler_step nothing while twinflow_target_step_count is "
            f"{options.target_step_count}: the steps that the model is drawn by would not be trained. Give it a share, "
            "remove twinflow_role_shares, or set twinflow_target_step_count to 1."
        )
    if options.implementation == "paper" and not flow and steps > 0:
        yield (
            f"twinflow_role_shares gives sampler_step {steps:g} while model_family is "
            f"{shown(config.get('model_family'))}: a sampler of epsilon and v models noises anew between its steps, "
            "which are jumps to the data. Give the share to one_step."
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
    ours, dataset_rows = options.implementation == "paper", conflict_rows.DATASET_CONFLICTS
    rows: tuple[Conflict, ...] = conflict_rows.HOST_CONFLICTS if ours else conflict_rows.DOCUMENTED_CONFLICTS
    if ours and not flow:
        rows += conflict_rows.DIFFUSION_CONFLICTS
    family = (FAMILIES | DIFFUSION_FAMILIES).get(str(config.get("model_family")))
    only_full = family is not None and family.refuses("model_type", "lora")
    if ours and (config.get("model_type", "full") == "full" or only_full):
        of_full = conflict_rows.FULL_CONFLICTS + (conflict_rows.EMA_CONFLICTS if use_ema else ())
        # Of a family that trains no LoRA all problems of the full fine-tune are said, and no LoRA is offered.
        rows += tuple(row.without_lora() for row in of_full) if only_full else of_full
    yield from _met([row for row in rows if not (schnell and row.key == "flux_fast_schedule")], config)
    if schnell and (is_set(config.get("flux_fast_schedule")) or not is_set(config.get("i_know_what_i_am_doing"))):
        yield (
            f'model_flavour is "schnell" while flux_fast_schedule is {_found(config, "flux_fast_schedule")}: '
            "SimpleTuner trains it on that schedule's few times, and TwinFlow needs times from the whole path. Way "
            "out: set flux_fast_schedule to false and i_know_what_i_am_doing to true, which SimpleTuner asks for "
            'then, or use model_flavour "dev".'
        )
    if ours:
        yield from _met(conflict_rows.LAUNCHER_CONFLICTS, os.environ)
        yield from deepspeed_problems(config, os.environ)
        if is_set(config.get("fsdp_enable")):
            yield from _met(conflict_rows.SHARDED_CONFLICTS, config)
            dataset_rows += conflict_rows.SHARDED_DATASET_CONFLICTS
        elif is_set(launcher := os.environ.get("ACCELERATE_USE_FSDP")):
            yield (
                f"ACCELERATE_USE_FSDP is {shown(launcher)} while fsdp_enable is {_found(config, 'fsdp_enable')}: "
                "SimpleTuner then knows but a part of what it has to do for sharded weights. Way out: set fsdp_enable "
                "to true and fsdp_version to 2 in the run's config, or choose plain data-parallel training in the "
                "accelerate config."
            )
        if context_parallel.is_shared(config):
            yield from context_parallel.family_problem(config)
            yield from _met(context_parallel.CONTEXT_CONFLICTS, config)
            if not is_set(config.get("validation_disable")):
                yield from _met(context_parallel.DRAWN, config)
        for key in conflict_rows.AUXILIARY:
            if options.image_free and is_set(config.get(key)):
                yield (
                    f"{key} is {shown(config[key])} while twinflow_image_free is true: it compares with the data, "
                    f"which such a run does not train on. Set {key} or twinflow_image_free to false."
                )
    if ours and config.get("model_type") == "lora":
        if is_lycoris(config.get("lora_type")):
            file = config.get("lycoris_config") or DEFAULT_FILE
            yield from lycoris_problems(file, needs_base=_needs_base(config, options))
        else:
            yield from _adapter_problems(config)
    if ours and family is not None and family.makes_sound:
        dataset_rows += conflict_rows.SOUND_CONFLICTS
    if ours and has_first_frame(family, config.get("model_flavour")):
        dataset_rows += DATASET_CONFLICTS
        yield from first_frame_problems(config, options)
    noises_anew = options.target_step_count > 1 and options.time_conditioning != "training_only"
    if ours and family is not None and family.stepped_by != "scheduler" and noises_anew:
        yield (
            f"twinflow_target_step_count is {options.target_step_count} and twinflow_time_conditioning "
            f"{shown(options.time_conditioning)} with model_family {shown(config['model_family'])}: such a model is "
            "noised anew between its steps, and the family's pipeline, which makes its steps itself, cannot. Way out: "
            'set twinflow_time_conditioning to "training_only", or twinflow_target_step_count to 1.'
        )
    yield from _dataset_problems(config.get("data_backend_config"), dataset_rows)
    # A model that is neither a flow nor bridged has its line above.
    if ours and (flow or bridged) and (reason := unsupported_reason(config, flow=flow)):
        yield reason


def _adapter_problems(config: Config) -> Iterator[str]:
    yield from _met(conflict_rows.ADAPTER_CONFLICTS, config)
    init = config.get("lora_init_type")
    if init not in conflict_rows.MOVES_BASE:
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


def _dataset_problems(path: Any, rows: Sequence[Conflict]) -> Iterator[str]:
    try:
        datasets = datasets_of(path)
    except DataConfigError as error:
        yield str(error)
        return
    if only_regularisation(datasets):
        yield (
            f"data_backend_config is {shown(path)}, in which every set of pictures is one of regularisation "
            "(is_regularisation_data): none of TwinFlow's terms would be trained. Way out: add a set without it."
        )
    for dataset in datasets:
        for line in _met(rows, dataset):
            yield f"{line} (dataset {dataset.get('id')!r} in {path})"


def _needs_base(config: Config, options: TwinFlowOptions) -> bool:
    """Whether an adapter is switched off in some passes: for guidance, or for a regularisation set's targets."""
    if options.scale > 1 and settled(options, "lora").guidance_reference == "base":
        return True
    try:
        return has_regularisation(config.get("data_backend_config"))
    except DataConfigError:
        return False  # which has its own line


def _met(rows: Iterable[Conflict], values: Config) -> Iterator[str]:
    """A line on each conflict that these values have."""
    for conflict in rows:
        if conflict.applies(value := values.get(conflict.key)):
            yield (
                f"{conflict.key} is {shown(value)}, which cannot be combined with twinflow_enabled: {conflict.reason}. "
                f"Way out: {conflict.way_out}."
            )


def _found(config: Config, key: str) -> str:
    """A switch as the user wrote it; false where it is missing."""
    value = config.get(key)
    return "false" if value is None else shown(value)
