"""What a run with a configuration would do, and what is wrong with it: for the command `doctor` and the web UI.

The problems come from `given.checked`, by which a run's start-up refuses.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.settings.budget import ONE_PICTURE, Budget
from simpletuner_twinflow.host.settings.conflict_rows import as_number, is_lycoris, is_set
from simpletuner_twinflow.host.settings.data_config import is_one_picture
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES, predicts_flow
from simpletuner_twinflow.host.settings.given import ADDED, KEYS, checked
from simpletuner_twinflow.host.settings.guidance import AUTO, settled
from simpletuner_twinflow.host.settings.lycoris_config import DEFAULT_FILE
from simpletuner_twinflow.host.settings.memory import memory
from simpletuner_twinflow.host.settings.model_folders import model_folders
from simpletuner_twinflow.host.settings.network import target_modules
from simpletuner_twinflow.host.settings.overridden import overridden
from simpletuner_twinflow.host.settings.summary import MORE_LAYERS, Processes, summary
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions, from_text

HOST_DEFAULTS: dict[str, Any] = {  # of the keys that the summary reads, as SimpleTuner's parser has them
    "model_type": "full",
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "use_ema": False,
    "ema_decay": 0.995,
    "lora_init_type": "default",
    "caption_dropout_probability": 0.1,
    "lora_type": "standard",
    "lycoris_config": DEFAULT_FILE,
    "mixed_precision": "bf16",
    "peft_lora_target_modules": None,
    "max_train_steps": None,
    "validation_step_interval": 100,
    "optimizer": "adamw_bf16",
    "gradient_checkpointing": True,
    "ema_device": "cpu",
    "lora_rank": 16,
}
FEWEST_ROWS = 1_600  # of the smallest run in docs/ whose few steps were worth drawing: first-run.md
NUMBERS = ("train_batch_size", "gradient_accumulation_steps")
STEPS = ("max_train_steps", "validation_step_interval", "validation_steps")  # none or up to 0: the default


def examined(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with this configuration would do, and every problem of it that TwinFlow checks.

    Args: given: the configuration as its user wrote it, keys without dashes.

    Returns:
        "options" by key, "problems", "on"; of a run that TwinFlow trains also "run", what it would do, by title,
        "data", whether it names a data config, "missing", a line on each file that it names and that is not there,
        "hub", a line on each model that is looked for on the model hub, and "overridden", a line on each of the host's
        keys that TwinFlow overrides or adds.
    """
    problems: list[str] = []
    values = {key: from_text(key, value) for key, value in given.items() if key in KEYS}
    try:
        values = checked(given)
    except TwinFlowConfigError as error:
        problems = list(error.problems)
    options, _ = TwinFlowOptions.read(values)
    effective = {
        PREFIX + name: {"value": value, "from": "config" if PREFIX + name in given else "default"}
        for name, value in options
    }
    report: dict[str, Any] = {"options": effective, "problems": problems, "on": options.enabled}
    if problems or not options.enabled or options.implementation != "paper":
        return report
    config = configured({**given, **values})
    if config.model_type not in AUTO:
        problems.append(f'model_type is {shown(config.model_type)}; SimpleTuner takes "full" or "lora".')
        return report
    for key in NUMBERS:
        number = as_number(getattr(config, key))
        if number is None or not number.is_integer() or number < 1:
            problems.append(f"{key} is {shown(getattr(config, key))}; SimpleTuner takes a whole number from 1.")
            return report
        setattr(config, key, int(number))
    for key in STEPS:
        value = given.get(key)
        number = as_number(value)
        if value is not None and value != "" and (number is None or not number.is_integer()):
            problems.append(f"{key} is {shown(value)}; SimpleTuner takes a whole number.")
            return report
    options = settled(options, config.model_type)
    flow = predicts_flow(vars(config))
    own_steps = flow and options.target_step_count > 1 and options.time_conditioning == "training_only"
    entries = summary(options, config, own_steps=own_steps)
    family = str(given.get("model_family"))
    known = family in FAMILIES or family in DIFFUSION_FAMILIES
    entries |= memory(options, config)
    entries["adapts"] = _adapted(config)
    entries["quality"] = _quality(options, config, own_steps=own_steps)
    entries["family"] = f"{family}: {'supported, see docs/families.md' if known else 'unknown'}"
    # Where the readers have not added it already.
    added = [why for key, why in ADDED.items() if key in values and not is_set(given.get(key))]
    named = given.get("data_backend_config")
    if not named:
        added.append("data_backend_config is not set: SimpleTuner needs it.")
    lost = [] if not named or _is_file(named) else [("data_backend_config", named)]
    nowhere, at_hub = model_folders(given)
    if config.model_type == "lora" and is_lycoris(config.lora_type) and not _is_file(config.lycoris_config):
        lost.append(("lycoris_config", config.lycoris_config))
    if config.model_type == "lora" and is_set(given.get("init_lora")) and not _is_file(given["init_lora"]):
        lost.append(("init_lora", given["init_lora"]))  # the host opens it as a file, and asks no hub
    missing = [
        f"{key} is {shown(path)}: there is no such file, seen from {Path.cwd()}. Mend the path, or start in the folder "
        "that it is relative to."
        for key, path in lost
    ]
    missing += nowhere
    one = [ONE_PICTURE] if options.quality_samples and is_one_picture(named) else []
    said = [*added, *too_small(config), *one, *overridden(vars(config), options)]
    return report | {"run": entries, "data": bool(named), "missing": missing, "hub": at_hub, "overridden": said}


def too_small(config: SimpleNamespace) -> list[str]:
    """A line where a run trains far less than those that few steps were learnt by. Args: config: the host's keys."""
    groups = Processes.configured(config).groups
    rows = config.train_batch_size * config.gradient_accumulation_steps * groups
    steps = as_number(config.max_train_steps) or 0
    if not 0 < steps * rows < FEWEST_ROWS:
        return []
    return [
        f"max_train_steps is {shown(config.max_train_steps)} with {rows} row{'s' * (rows > 1)} a step, "
        f"{steps * rows:,.0f} rows in all. Drawing in few steps took a tiny model {FEWEST_ROWS:,} rows and published "
        "ones 190,000 and more (docs/choosing.md): this run can show that all works, and no more."
    ]


def configured(given: Mapping[str, Any]) -> SimpleNamespace:
    """The host's keys that are read here, with its defaults. Args: given: a configuration."""
    keys = HOST_DEFAULTS | {key: _parsed(value) for key, value in given.items()}
    if is_set(given.get("validation_steps")):  # the same key's older name
        keys["validation_step_interval"] = keys["validation_steps"]
    return SimpleNamespace(**keys)


def _is_file(path: Any) -> bool:
    return isinstance(path, str) and os.path.isfile(path)


def _adapted(config: Any) -> str:
    """Which layers a LoRA is for."""
    if config.model_type != "lora":
        return ""
    if is_lycoris(config.lora_type):
        return f"the layers that LyCORIS takes by lycoris_config {config.lycoris_config}"
    if named := target_modules(vars(config)):
        return f"peft_lora_target_modules {', '.join(named)}"
    return f"the layers of the family's default, of most the attention alone: {MORE_LAYERS}"


def _quality(options: TwinFlowOptions, config: Any, *, own_steps: bool) -> str:
    """When few-step quality is measured, by one process."""
    if options.quality_samples == 0:
        return "not measured (twinflow_quality_samples 0)"
    steps = as_number(config.max_train_steps)
    if options.quality_interval == 0 and not (steps and steps > 0):
        return "measured where the number of steps, which the datasets decide, makes it cheap enough"
    budget = Budget(options, config, rows=options.quality_samples, own_steps=own_steps, processes=1)
    kept = config.model_type == "lora" or (options.scale > 1 and options.guidance_reference == "base")
    return budget.described(base=kept and budget.allows_base())


def _parsed(value: Any) -> Any:
    """A text of a number, or of true or false, as the host's parser takes it; anything else unchanged."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    number = as_number(value)
    return value if number is None else int(number) if number.is_integer() and "." not in value else number
