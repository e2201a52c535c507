"""The keys as the user wrote them, checked before the host turns a config into command line arguments.

There the host drops objects and the texts "false" and "", and keeps a list's last item only; its parser answers a wrong
type with a traceback.
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.run import argument
from simpletuner_twinflow.host.seams import Seam, Touch, uses, wrap
from simpletuner_twinflow.host.settings.assistants import assistant_of
from simpletuner_twinflow.host.settings.conflict_rows import is_set
from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.options import NAME, PREFIX, TwinFlowOptions, from_text, misspelt

KEYS = TwinFlowOptions.keys()
DEFAULTS = {PREFIX + name: field.default for name, field in TwinFlowOptions.model_fields.items()}
USE_EMA = "use_ema"
EMA_ADDED = (
    "use_ema is not set: TwinFlow turns it on, since the average of the weights is its teacher. For a run without one "
    "set use_ema and twinflow_require_ema to false."
)
ASSISTANT_OFF = "disable_assistant_lora"
ASSISTANT_LEFT_OUT = (
    "disable_assistant_lora becomes true: the assistant adapter is a frozen one that SimpleTuner has on in training "
    "and off in drawing, so that the few-step model would be learnt on one network and drawn with another. TwinFlow "
    "trains the network that is drawn with."
)
ADDED = {USE_EMA: EMA_ADDED, ASSISTANT_OFF: ASSISTANT_LEFT_OUT}  # what a run is given beside its user's keys, and why
ENABLED, RATIO, SCALE = (f"{PREFIX}{name}" for name in ("enabled", "enhanced_ratio", "guidance_scale"))


@uses(Seam("mapping_to_cli_args", ("mapping",)), Seam("resolve_value_placeholders", ("value",), Touch.read))
def check_config_values(module: ModuleType) -> None:
    """Check the values of a JSON or TOML config or the web UI, and pass them on in a form that the host keeps."""

    def convert(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> list[str]:
        mapping = argument(args, kwargs, "mapping")
        if not isinstance(mapping, Mapping):
            return wrapped(*args, **kwargs)
        taken = checked({bare(key): module.resolve_value_placeholders(value) for key, value in mapping.items()})
        say_what_is_added(taken)
        # As text, which the host keeps: it knows which keys are lists and objects only with all its fields loaded.
        texts = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in taken.items()}
        settled = {key: value for key, value in mapping.items() if not _is_ours(key) and bare(key) not in texts} | texts
        return wrapped(settled, *args[1:], **{key: value for key, value in kwargs.items() if key != "mapping"})

    wrap(module, "mapping_to_cli_args", convert)


@uses(Seam("load_env_config"), lost="a config.env cannot name its keys")
def read_environment(module: ModuleType) -> None:
    """Let a `config.env` name the keys in capitals, like the host's own."""

    def load(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> list[str]:
        found = {key: os.environ[key.upper()] for key in KEYS if key.upper() in os.environ}
        if not is_set(os.environ.get(USE_EMA.upper(), True)):
            found[USE_EMA] = "false"  # which the host leaves out, like a key that is not there
        return [*wrapped(*args, **kwargs), *(f"--{key}={_unquoted(text)}" for key, text in found.items())]

    wrap(module, "load_env_config", load)


def checked_arguments(arguments: Sequence[str]) -> list[str]:
    """Command line arguments for the host's parser, checked as `checked` does. Raises: TwinFlowConfigError."""
    given = as_mapping(arguments)
    taken = checked(given)
    added = [key for key in ADDED if key in taken]
    left_out = ({key for key in given if _is_ours(key)} - taken.keys()) | {*added}
    kept = [*_without(arguments, left_out)] if left_out else list(arguments)
    return [*kept, *(f"--{key}" for key in added)]


def say_what_is_added(taken: Collection[str]) -> None:
    """Log once what a run's configuration is given that its user left unset. Args: taken: keys, as of `checked`."""
    for key, why in ADDED.items():
        if key in taken and os.environ.get("RANK", "0") == "0":
            # The host configures logging while it starts; a logger made earlier would be switched off.
            logging.getLogger("simpletuner_twinflow").warning(why)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the plugin's keys, converted to their types; while TwinFlow is off, wrong ones are left out.

    With `use_ema` true, if a TwinFlow run needs an EMA teacher and that key is not set, or off in the web UI's form;
    and with `disable_assistant_lora` true, where the host would train with an assistant adapter.

    Args:
        given: a whole configuration as its user wrote it, keys without dashes.

    Raises:
        TwinFlowConfigError: A line for each problem: key, value found, what is allowed, the way out.
    """
    ours = {key: value for key, value in given.items() if _is_ours(key) and value is not None}
    problems = misspelt(ours)
    values = {key: from_text(key, value) for key, value in ours.items() if key in KEYS}
    options, refused = TwinFlowOptions.read(values, ours)
    if ENABLED in values and ENABLED not in refused and not options.enabled:
        refused_while_off, refused = refused, {}
        values = {key: value for key, value in values.items() if key not in refused_while_off}
    problems += refused.values()
    if values and ENABLED not in values:
        verb = "is" if len(values) == 1 else "are"
        problems.append(
            f"{', '.join(values)} {verb} set, but twinflow_enabled is not, so the run would train without TwinFlow. "
            "Set twinflow_enabled to true, or to false to train without it, or remove what is set."
        )
    if ENABLED in refused:
        options = options.changed(enabled=True)  # whatever was meant: so that all problems are reported at once
    problems += options.contradictions()
    if options.enabled:
        # In the web UI's form a switch that is off cannot be told from one that nobody has touched.
        unset = given.get(USE_EMA) is None or (_is_form(values) and not is_set(given[USE_EMA]))
        if unset and _needs_ema(options):
            given, values = {**given, USE_EMA: True}, values | {USE_EMA: True}
        if options.implementation == "paper" and assistant_of(given) is not None:
            given, values = {**given, ASSISTANT_OFF: True}, values | {ASSISTANT_OFF: True}
        problems += [] if refused.keys() & {RATIO, SCALE} else _scale_given_twice(values)
        problems += conflicts(given, options)
    if problems:
        raise TwinFlowConfigError(*dict.fromkeys(problems))
    return values


def _is_form(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of the web UI's form, which gives every key that has a default."""
    return values.keys() >= {key for key, default in DEFAULTS.items() if default is not None}


def _needs_ema(options: TwinFlowOptions) -> bool:
    return options.require_ema and not options.allow_no_ema_teacher


def _scale_given_twice(values: Mapping[str, Any]) -> list[str]:
    """A line if guidance is given both as a ratio and as a scale."""
    # In the web UI's form a ratio at its default is nobody's wish.
    if not {RATIO, SCALE} <= values.keys() or (_is_form(values) and values[RATIO] == DEFAULTS[RATIO]):
        return []
    return [
        f"{RATIO} is {shown(values[RATIO])} and {SCALE} {shown(values[SCALE])}: both name the guidance scale that is "
        "trained in, which a ratio makes 1 / (1 - ratio). Remove one of them."
    ]


def as_mapping(arguments: Iterable[str]) -> dict[str, str | bool]:
    """Arguments `--key=value`, `--key value` and `--key` by key; as in argparse, the last of a key counts."""
    given: dict[str, str | bool] = {}
    key = None
    for word in arguments:
        if word.startswith("--"):
            key, separator, text = word[2:].partition("=")
            given[key] = text if separator else True
            key = None if separator else key
        elif key is not None:
            given[key], key = word, None
    return given


def _without(arguments: Iterable[str], keys: set[str]) -> Iterable[str]:
    dropped = False
    for word in arguments:
        if word.startswith("--"):
            dropped = word[2:].partition("=")[0] in keys
        if not dropped:
            yield word


def bare(key: str) -> str:
    """A key without the dashes that a config or the web UI may write before it."""
    return key.strip().lstrip("-")


def _is_ours(key: str) -> bool:
    return bare(key).lower().startswith(NAME)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
