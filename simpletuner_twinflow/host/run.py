"""The run's options, asked by every hook."""

from typing import Any

from simpletuner_twinflow.options import TwinFlowOptions


def active_options(config: Any) -> TwinFlowOptions | None:
    """The run's options where this plugin trains; None where TwinFlow is off or left to the host."""
    options = TwinFlowOptions.from_mapping(vars(config))
    return options if options.enabled and options.implementation == "paper" else None
