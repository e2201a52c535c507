"""The run's options: parsed once, asked by every hook."""

from functools import lru_cache
from typing import Any

from simpletuner_twinflow.options import TwinFlowOptions

KEYS = TwinFlowOptions.keys()


def options_of(config: Any) -> TwinFlowOptions:
    """The options in the host's parsed configuration, which holds plain values only.

    Raises:
        TwinFlowConfigError: A line for each value that cannot be taken.
    """
    return _parsed(tuple(getattr(config, key, None) for key in KEYS))


def active_options(config: Any) -> TwinFlowOptions | None:
    """The run's options where this plugin trains; None where TwinFlow is off or left to the host."""
    options = options_of(config)
    return options if options.enabled and options.implementation == "paper" else None


# By the values, not by the configuration: the host changes and copies that while it runs.
@lru_cache(maxsize=8)
def _parsed(values: tuple[Any, ...]) -> TwinFlowOptions:
    return TwinFlowOptions.from_mapping(dict(zip(KEYS, values, strict=True)))
