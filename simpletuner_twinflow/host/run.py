"""What the hooks share: the run's options, parsed once; wrappers for TwinFlow runs alone; the log of mended faults."""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.seams import wrap
from simpletuner_twinflow.options import TwinFlowOptions

KEYS = TwinFlowOptions.keys()
# By the values, not by the configuration: the host changes and copies that while it runs.
_parsed: dict[str, TwinFlowOptions] = {}


def options_of(config: Any) -> TwinFlowOptions:
    """The options in the host's parsed configuration; of None, the defaults.

    Raises:
        TwinFlowConfigError: A line for each value that cannot be taken.
    """
    values = {key: getattr(config, key, None) for key in KEYS}
    written = repr(values)  # tells 1 from True, and takes lists too
    if written not in _parsed:
        _parsed[written] = TwinFlowOptions.from_mapping(values)
    return _parsed[written]


def active_options(config: Any) -> TwinFlowOptions | None:
    """The run's options; None where TwinFlow is off or left to the host's own implementation."""
    if not getattr(config, "twinflow_enabled", False):
        return None
    options = options_of(config)
    return options if options.enabled and options.implementation == "paper" else None


def exported_weights(config: Any) -> str:
    """The weights that a TwinFlow run with this configuration exports: "ema" or "student"."""
    wanted = options_of(config).export_weights
    return wanted if wanted != "auto" else "ema" if config.use_ema else "student"


def wrap_active(module: ModuleType, path: str, wrapper: Callable[..., Any]) -> None:
    """Wrap a host method, "Class.method", for TwinFlow runs alone; in any other the call goes straight through.

    The class holds the run's configuration as `config` or `args`. `wrapper(wrapped, instance, args, kwargs)`.
    """

    def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        config = getattr(instance, "config", None) or getattr(instance, "args", None)
        if active_options(config) is None:
            return wrapped(*args, **kwargs)
        return wrapper(wrapped, instance, args, kwargs)

    wrap(module, path, call)


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, position: int = 0, default: Any = None) -> Any:
    """An argument of a wrapped call, which may have been passed by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def log_mending(what: str, *values: Any) -> None:
    """Log a fault of the host that a TwinFlow run mends; docs/mended.md lists them."""
    # The host configures logging while it starts; a logger made earlier would be switched off.
    logging.getLogger("simpletuner_twinflow").info(f"Mending SimpleTuner: {what}.", *values)
