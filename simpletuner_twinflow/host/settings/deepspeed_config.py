"""The `deepspeed_config` of a run, as far as TwinFlow reads it: the stage of ZeRO it asks for, and what is refused."""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import Conflict, as_number, is_off, is_positive, is_set

KEY = "deepspeed_config"
LAUNCHER = "ACCELERATE_USE_DEEPSPEED"  # an environment variable, which an accelerate config sets
STAGES = (1, 2)  # of ZeRO, that train with TwinFlow
WAY_OUT = (
    "choose stage 1 or 2 of ZeRO in it, or FSDP 2 (fsdp_enable and fsdp_version 2), or plain data-parallel training"
)
NOT_TRIED = "it has not been tried with DeepSpeed"

# The host's keys beside a `deepspeed_config`.
ROWS: tuple[Conflict, ...] = (
    Conflict(
        "model_type",
        "SimpleTuner trains no LoRA with DeepSpeed, and ends",
        'set it to "full", or train the LoRA by FSDP 2 or plain data-parallel training',
        lambda value: str(value or "full") == "lora",
    ),
    Conflict(
        "validation_disable",
        "with DeepSpeed SimpleTuner draws nothing: its validation fails where it looks up the accelerator's kind",
        "set it to true, and draw with what is exported",
        is_off,
    ),
    Conflict("eval_steps_interval", NOT_TRIED, "remove it", is_positive),
    Conflict("crepa_enabled", NOT_TRIED),
    Conflict("urepa_enabled", NOT_TRIED),
    Conflict("tread_config", NOT_TRIED, "remove it"),
    Conflict("fsdp_enable", "both would shard the run", f"set it to false, or remove {KEY}"),
)
ACCUMULATION = "gradient_accumulation_steps"  # a key of SimpleTuner's and of DeepSpeed's


class DeepSpeedConfigError(ValueError):
    """The value holds no settings of DeepSpeed, in words that begin with the key."""


def deepspeed_settings(value: Any) -> dict[str, Any] | None:
    """The settings in a `deepspeed_config`, read as the host reads it; None where DeepSpeed is off.

    Args: value: an object, JSON, or the path of a JSON file.

    Raises:
        DeepSpeedConfigError: It is none of these.
    """
    if value in (None, "", "None", False):
        return None
    found = value
    try:
        if isinstance(value, str) and value.strip().startswith(("{", "[")):
            found = _literal(value.strip())
        elif isinstance(value, str | Path):
            found = json.loads(Path(value).expanduser().read_text(encoding="utf-8"))
    # The last is what too deep a text, and a home that nobody has, raise.
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise DeepSpeedConfigError(f"{KEY} is {shown(value)}, which cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise DeepSpeedConfigError(f"{KEY} is {shown(value)}, which must hold an object of DeepSpeed's settings.")
    return found


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def zero_stage(settings: Mapping[str, Any]) -> Any:
    """The stage of ZeRO that settings of DeepSpeed ask for, as it stands there; 0 where they name none."""
    zero = settings.get("zero_optimization")
    found = zero.get("stage") if isinstance(zero, Mapping) else None
    return 0 if found is None else found


def refused_stage(where: str, stage: Any) -> str | None:
    """Why a stage of ZeRO cannot be trained with TwinFlow, with the way out; None for those that can.

    Args: where: what has chosen it, as the beginning of a sentence.
    """
    if stage in STAGES and not isinstance(stage, bool):
        return None
    if stage == 3:
        reason = "it splits the weights themselves, out of which none can be lent to the teacher"
    else:
        reason = "only stages 1 and 2 have been proven"
    return f"{where} {shown(stage)}, which cannot be combined with twinflow_enabled: {reason}. Way out: {WAY_OUT}."


def deepspeed_problems(config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """A line on each setting of a run with DeepSpeed that TwinFlow cannot be combined with; none without DeepSpeed.

    Args:
        config: the host's keys, parsed or as they are in a config.
        environment: the process's variables, by which a launcher switches DeepSpeed on.
    """
    try:
        settings = deepspeed_settings(config.get(KEY))
    except DeepSpeedConfigError as error:
        yield f"{error} Way out: mend it, or remove {KEY}."
        return
    if settings is None:
        if is_set(launcher := environment.get(LAUNCHER)):
            yield (
                f"{LAUNCHER} is {shown(launcher)} while {KEY} is not set: nothing says before the start which stage "
                f"of ZeRO it would be. Way out: write DeepSpeed's settings into {KEY} in the run's config, or choose "
                "plain data-parallel training in the accelerate config."
            )
        return
    if problem := refused_stage(f"zero_optimization.stage in {KEY} is", zero_stage(settings)):
        yield f"{problem}{_where_the_stage_stands(settings)}"
    steps = as_number(settings.get(ACCUMULATION))  # None: not given, or "auto"
    if steps is not None and steps != (wanted := as_number(config.get(ACCUMULATION)) or 1):
        yield (
            f"{ACCUMULATION} in {KEY} is {shown(settings[ACCUMULATION])} and {wanted:g} in the run, so that rows would "
            f'be counted otherwise than they are trained. Way out: set the one in {KEY} to "auto".'
        )
    found = settings.get("zero_optimization")
    zero = found if isinstance(found, Mapping) else {}
    for key in zero:
        # "cpu_offload" is the older spelling, of the optimizer's.
        value = zero[key].get("device") if isinstance(zero[key], Mapping) else zero[key]
        if key.startswith(("offload_", "cpu_offload")) and is_set(value):
            yield _line(Conflict(f"zero_optimization.{key} in {KEY}", NOT_TRIED, "remove it"), value)
    yield from _half_precision(config, settings)
    for row in ROWS:
        if row.applies(value := config.get(row.key)):
            yield _line(row, value)


def _where_the_stage_stands(settings: Mapping[str, Any]) -> str:
    """How a stage that has been written elsewhere, or otherwise, is written."""
    zero = settings.get("zero_optimization")
    found = zero.get("stage") if isinstance(zero, Mapping) else settings.get("zero_stage")
    if as_number(found) in STAGES and (isinstance(found, str) or not isinstance(zero, Mapping)):
        return f' DeepSpeed reads it as {{"zero_optimization": {{"stage": {as_number(found):g}}}}}, a number.'
    return ""


def _half_precision(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """A line where losses would be scaled: by settings of DeepSpeed, or because the run itself is in fp16."""
    wanted, way_out = "the scale of its losses has not been tried with TwinFlow's", "remove it, or train in bf16"
    for name in ("fp16", "amp"):
        block = settings.get(name)
        enabled = block.get("enabled") if isinstance(block, Mapping) else None
        if is_set(enabled) and enabled != "auto":
            yield _line(Conflict(f"{name}.enabled in {KEY}", wanted, way_out), enabled)
    if str(precision := config.get("mixed_precision")).lower() == "fp16":  # which Accelerate writes into them
        yield _line(Conflict("mixed_precision", wanted, 'set it to "bf16"'), precision)


def _line(row: Conflict, value: Any) -> str:
    return (
        f"{row.key} is {shown(value)} while {KEY} is set, which cannot be combined with twinflow_enabled: "
        f"{row.reason}. Way out: {row.way_out}."
    )
