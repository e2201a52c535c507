"""TwinFlow few-step training for SimpleTuner, attached by one config key.

Public names are loaded on first use: the start-up file imports this package in every process of the environment.
"""

TYPE_CHECKING = False  # type checkers take it for true; typing's own would cost most of the start-up
if TYPE_CHECKING:
    from typing import Any

    from simpletuner_twinflow.errors import HostVersionError, TwinFlowConfigError, TwinFlowError
    from simpletuner_twinflow.host.attachment import attach, detach
    from simpletuner_twinflow.options import TwinFlowOptions
    from simpletuner_twinflow.sampling.diffusion_scheduler import TwinFlowDiffusionScheduler
    from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

    __version__: str

__all__ = [
    "HostVersionError",
    "TwinFlowConfigError",
    "TwinFlowDiffusionScheduler",
    "TwinFlowError",
    "TwinFlowOptions",
    "TwinFlowScheduler",
    "__version__",
    "attach",
    "detach",
]

_HOME = {
    "HostVersionError": "errors",
    "TwinFlowConfigError": "errors",
    "TwinFlowDiffusionScheduler": "sampling.diffusion_scheduler",
    "TwinFlowError": "errors",
    "TwinFlowOptions": "options",
    "TwinFlowScheduler": "sampling.flow_scheduler",
    "attach": "host.attachment",
    "detach": "host.attachment",
}


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        return version("simpletuner-twinflow")
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
