"""The host's web UI: the keys in a block of their own, and what is wrong with them on Validate, on Run, at each field.

These modules of the host are imported by its web server alone.
"""

import html
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from simpletuner_twinflow.declaration import kind_of
from simpletuner_twinflow.errors import HostVersionError
from simpletuner_twinflow.host.run import argument
from simpletuner_twinflow.host.seams import Seam, Touch, refuse_broken_seams, set_on, uses, wrap
from simpletuner_twinflow.host.settings.examined import examined
from simpletuner_twinflow.host.settings.fields import SECTION
from simpletuner_twinflow.host.settings.given import KEYS, bare
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions, from_text

TAB = "training"
BELOW = 42  # among the blocks of the tab; the host's own loss functions are at 40 and 41, noise settings at 50
JSON_KEYS = frozenset(
    PREFIX + name
    for name, field in TwinFlowOptions.model_fields.items()
    if kind_of(field) is str and not TwinFlowOptions.choices(name)
)


@uses(
    Seam("SectionLayout", touch=Touch.read),
    Seam("FieldService._TAB_SECTION_LAYOUTS", touch=Touch.replaced),
    Seam("FieldService.apply_field_transformations", ("field_name", "value")),
    lost="in the web UI its keys stand last in their tab, and lists in quotes",
)
def lay_out_block(module: ModuleType) -> None:
    """Give the keys a block of their own below the loss functions, and show lists and objects as such."""
    block = module.SectionLayout(
        id=SECTION,
        title="TwinFlow",
        icon="fas fa-forward",
        description="Training for 1 to 4 steps without guidance. Validate says what cannot be combined with it.",
        match_section=SECTION,
        order=BELOW,
    )
    layouts = module.FieldService._TAB_SECTION_LAYOUTS
    set_on(module.FieldService, "_TAB_SECTION_LAYOUTS", {**layouts, TAB: (*layouts[TAB], block)})

    def transform(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        name, value = argument(args, kwargs, "field_name"), argument(args, kwargs, "value", 1)
        if name not in JSON_KEYS or not isinstance(value, str):
            return wrapped(*args, **kwargs)
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value  # shown as it was written; Validate says what is wrong with it

    wrap(module, "FieldService.apply_field_transformations", transform)


@uses(
    Seam("validate_training_config", ("store", "complete_config")),
    Seam("resolve_config_path", ("path", "config_dir", "check_cwd_first"), Touch.read),
    Seam("TrainingValidationResult", ("errors", "warnings"), Touch.read),
    Seam("resolve_value_placeholders", ("value",), Touch.read, "simpletuner.helpers.configuration.cli_utils"),
    lost="the web UI's Validate and Run do not show its problems, with which the run then ends at its start",
)
def check_on_validate(module: ModuleType) -> None:
    """Have Validate and Run show what a run's start-up would refuse, and Validate what the run overrides."""

    def validate(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        result = wrapped(*args, **kwargs)
        store, config = argument(args, kwargs, "store"), argument(args, kwargs, "complete_config", 1)
        problems, warnings = found_in(_as_run(module, config, store))
        # The page is made of these lines as they are.
        result.errors.extend(html.escape(line, quote=False) for line in problems)
        result.warnings.extend(html.escape(line, quote=False) for line in warnings)
        return result

    wrap(module, "validate_training_config", validate)


@uses(
    Seam("ValidationService.validate_field", ("field_name", "value")),
    lost="the web UI shows a wrong value on Validate only",
)
def check_single_fields(module: ModuleType) -> None:
    """Say what is allowed at a field with a wrong value, where the host's own limits have no effect."""

    def validate(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        key, value = bare(argument(args, kwargs, "field_name")), argument(args, kwargs, "value", 1)
        if key not in KEYS:
            return wrapped(*args, **kwargs)
        line = wrong_value(key, value)
        return line is None, line and html.escape(line, quote=False)

    wrap(module, "ValidationService.validate_field", validate)


def found_in(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The problems of a configuration, for which no run would start, and what a run with it overrides or adds.

    Args: config: as a run would be given it, keys without dashes.
    """
    report = examined(config)
    problems, warnings = report["problems"], report.get("overridden", [])
    if report["on"]:
        try:
            refuse_broken_seams(config)
        except HostVersionError as error:
            problems = [*problems, str(error)]
    return problems, warnings


def wrong_value(key: str, value: Any) -> str | None:
    """What is wrong with a key's value as a form gives it, with the way out; None if it is allowed or empty."""
    if value in (None, ""):
        return None
    return TwinFlowOptions.read({key: from_text(key, value)}, {key: value})[1].get(key)


def _as_run(module: ModuleType, config: Mapping[str, Any], store: Any) -> dict[str, Any]:
    """The configuration that Run gives to the trainer: dashes off, placeholders and the datasets' file resolved."""
    from simpletuner.helpers.configuration.cli_utils import resolve_value_placeholders

    given = {bare(key): resolve_value_placeholders(value) for key, value in config.items() if value is not None}
    if datasets := given.get("data_backend_config"):
        folder = getattr(store, "config_dir", None)
        found = module.resolve_config_path(datasets, config_dir=folder, check_cwd_first=False)
        given["data_backend_config"] = str(found or datasets)
    return given
