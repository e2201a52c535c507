"""The keys in the host's parser and web UI, and their checks when a run starts."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from simpletuner_twinflow.declaration import kind_of, limits
from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.host import changes
from simpletuner_twinflow.host.run import argument
from simpletuner_twinflow.host.seams import (
    PARSER,
    Seam,
    Touch,
    refuse_broken_seams,
    uses,
    warn_of_broken_seams,
    wrap,
)
from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.host.settings.given import as_mapping, checked_arguments, say_what_is_added
from simpletuner_twinflow.host.settings.overridden import overridden
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions

PATIENCE = 15  # seconds; a launcher ends the other ranks within one second of the first one's end
SECTION = "twinflow"  # the web UI shows the fields of a section as a block
DOCUMENTATION = "distillation/TWINFLOW.md"  # the host's page on the keys of which it has no field


@uses(
    Seam("field_registry", touch=Touch.read),
    Seam("FieldRegistry.get_field", ("field_name",), Touch.read),
    Seam("FieldRegistry._add_field", ("field",), Touch.read),
    *(Seam(name, touch=Touch.read) for name in ("ConfigField", "FieldDependency", "FieldType", "ImportanceLevel")),
    *(Seam(name, touch=Touch.read) for name in ("ValidationRule", "ValidationRuleType")),
    *(Seam(f"FieldRegistry.{name}", touch=Touch.read) for name in ("_fields", "_dependencies_map")),
    Seam("_ARG_PARSER_CACHE", touch=Touch.replaced, module=PARSER),
)
def add_fields(module: ModuleType) -> None:
    """Register every key with the host's field registry, which feeds argparse, JSON/TOML/env configs and the web UI."""
    registry = module.field_registry
    before = {PREFIX + name: registry.get_field(PREFIX + name) for name in TwinFlowOptions.names()}
    for order, name in enumerate(TwinFlowOptions.names()):
        registry._add_field(_config_field(module, name, order))
    changes.when_undone(partial(_give_back, registry, before))


def _give_back(registry: Any, before: dict[str, Any]) -> None:
    """Have the registry hold the fields that it had of its own, when the plugin is detached."""
    for name, field in before.items():
        for dependency in registry._fields[name].dependencies:
            dependents = registry._dependencies_map[dependency.field]
            del dependents[len(dependents) - 1 - dependents[::-1].index(name)]  # ours came last
            if not dependents:
                del registry._dependencies_map[dependency.field]
        if field is None:
            del registry._fields[name]
        else:
            registry._fields[name] = field


def _config_field(module: ModuleType, name: str, order: int) -> Any:
    from simpletuner.simpletuner_sdk.server.services.field_registry.types import ParserType

    info, field = TwinFlowOptions.info(name), TwinFlowOptions.model_fields[name]
    low, high, below = limits(field)
    field_type, rules = module.FieldType, module.ValidationRuleType
    shown: dict[str, Any] = {
        bool: {"field_type": field_type.CHECKBOX},
        int: {"field_type": field_type.NUMBER, "parser_type": ParserType.INTEGER, "step": 1},
        # The host's own step, a power of ten from the default, would have browsers call 0.25 and 0.005 wrong.
        float: {"field_type": field_type.NUMBER, "parser_type": ParserType.FLOAT, "step": "any"},
        str: {
            "field_type": field_type.SELECT,
            "choices": [{"value": choice, "label": choice} for choice in TwinFlowOptions.choices(name)],
        },
    }[kind_of(field)]
    default, help_text = field.default, TwinFlowOptions.help(name)
    if shown["field_type"] is field_type.SELECT and not shown["choices"]:
        # The one field type with which the host turns lists and objects into text; with others it drops them.
        # The default as text all the same: it goes into every run's configuration, where trackers take no list.
        shown, default = {"field_type": field_type.TEXT_JSON}, default and json.dumps(default)
    if shown["field_type"] in (field_type.NUMBER, field_type.TEXT_JSON):  # the others show what is allowed
        help_text = f"{help_text} Allowed: {TwinFlowOptions.allowed(name)}."
    bounds = [(rules.MIN, low, "at least"), (rules.MAX, high, "below" if below else "at most")]
    replaced = module.field_registry.get_field(PREFIX + name)
    documentation = getattr(replaced, "documentation", None) or (DOCUMENTATION if info.documented else None)
    return module.ConfigField(
        name=PREFIX + name,
        arg_name=f"--{PREFIX}{name}",
        ui_label=f"TwinFlow: {info.label}",
        tab="training",
        section=SECTION,
        default_value=default,
        validation_rules=[
            module.ValidationRule(rule, limit, f"Must be {words} {limit:g}")
            for rule, limit, words in bounds
            if limit is not None
        ],
        # None for the switch itself: its conflicts are said on Validate and Run, and a switch that is on must be seen.
        dependencies=[module.FieldDependency(field=key, operator="equals", value=True) for key in info.requires],
        help_text=help_text,
        tooltip=TwinFlowOptions.help(name),
        importance=module.ImportanceLevel.EXPERIMENTAL,
        order=order,
        documentation=documentation,
        allow_empty=default is None,  # else the host puts a saved value back where the user has cleared the field
        **shown,
    )


@uses(Seam("parse_cmdline_args", ("input_args", "exit_on_error")))
def check_arguments(module: ModuleType) -> None:
    """Check the keys among command line arguments before the host's parser sees them.

    It would answer a wrong one with its whole usage or a traceback, and take a unique prefix of a key for that key.
    """

    def parse(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        given = argument(args, kwargs, "input_args")
        arguments = sys.argv[1:] if given is None else given
        taken = checked_arguments(arguments)
        if taken == list(arguments):
            return wrapped(*args, **kwargs)
        before, after = as_mapping(arguments), as_mapping(taken)
        say_what_is_added([key for key, value in after.items() if before.get(key) != value])
        return wrapped(taken, *args[1:], **{key: value for key, value in kwargs.items() if key != "input_args"})

    wrap(module, "parse_cmdline_args", parse)


@uses(Seam("load_config", ("args",)))
def validate_at_start_up(module: ModuleType) -> None:
    """Check a run's configuration as soon as it has been parsed, before any model loads."""

    def load(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        from_command_line = not argument(args, kwargs, "args")
        if from_command_line and isinstance(refused := sys.exception(), TwinFlowError):
            raise refused  # the trainer would go on with a saved configuration in place of the one it was given
        try:
            config = wrapped(*args, **kwargs)
            if config is not None:
                validate(config)
        except TwinFlowError as error:
            if from_command_line:
                # Plain lines and exit code 1; the trainer answers any other exception with a second attempt.
                let_the_first_rank_speak()
                raise SystemExit(f"simpletuner-twinflow: {error}") from error
            raise
        return config

    wrap(module, "load_config", load)


def let_the_first_rank_speak() -> None:
    """Wait on every rank but a machine's first: its end ends the others, so that a common error is printed once."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(PATIENCE)


def validate(config: Any) -> None:
    """Check the parsed configuration of a TwinFlow run, and log what the run overrides.

    Raises:
        TwinFlowConfigError: A line for each value and each combination that cannot be trained with.
        HostVersionError: This host cannot run TwinFlow.
    """
    if not config.twinflow_enabled:
        warn_of_broken_seams()
        return
    options, refused = TwinFlowOptions.read(vars(config))
    refuse_broken_seams(vars(config))
    if problems := [*refused.values(), *options.contradictions(), *conflicts(vars(config), options)]:
        raise TwinFlowConfigError(*problems)
    if options.implementation == "paper" and os.environ.get("RANK", "0") == "0":
        for line in overridden(vars(config), options):
            logging.getLogger("simpletuner_twinflow").warning(line)
