"""The places in the host that the plugin uses: declared, checked before any is touched, then wrapped.

A hook declares every seam it needs. If one is missing, or lacks a parameter the plugin uses, the hook is not applied:
the host runs untouched, and a run that asks for TwinFlow is refused at start-up (`refuse_broken_seams`).
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from itertools import chain
from types import ModuleType

import wrapt

from simpletuner_twinflow._hooks import hook_entry_points
from simpletuner_twinflow.errors import HostVersionError
from simpletuner_twinflow.host import versions


@dataclass(frozen=True)
class Seam:
    """A name in a host module, with the parameters the plugin passes or reads there."""

    path: str  # "function" or "Class.method"
    parameters: tuple[str, ...] = ()

    def problem(self, module: ModuleType) -> str | None:
        """What is wrong with this seam in `module`; None when it is as expected."""
        where = f"{module.__name__}.{self.path}"
        owner: object = module
        for part in self.path.split("."):
            # vars() and not getattr(): an inherited method would be patched in the wrong class.
            if part not in vars(owner):
                return f"{where} is missing"
            found = vars(owner)[part]
            owner = found
        if not self.parameters:
            return None
        function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        accepted = inspect.signature(function).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            return None
        lacking = [name for name in self.parameters if name not in accepted]
        return f"{where} lacks the parameter {', '.join(lacking)}" if lacking else None


broken: list[str] = []
_attached: set[tuple[str, str]] = set()


def uses(*seams: Seam) -> Callable[[Callable[[ModuleType], None]], Callable[[ModuleType], None]]:
    """Declare the seams of a hook. It is then applied once per module, and only if all seams in that module are sound.

    All means those of every hook that waits for the module: either all of them are applied to it, or none.
    """

    def decorate(hook: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        @wraps(hook)
        def checked(module: ModuleType) -> None:
            key = (module.__name__, hook.__qualname__)
            if key in _attached:
                return
            problems = [problem for seam in _needed(module, seams) if (problem := seam.problem(module))]
            if problems:
                broken.extend(problems)
                return
            _attached.add(key)
            hook(module)

        checked.seams = seams
        return checked

    return decorate


def _needed(module: ModuleType, own: tuple[Seam, ...]) -> list[Seam]:
    declared = (entry.load().seams for entry in hook_entry_points() if entry.name == module.__name__)
    return list(dict.fromkeys(chain(own, *declared)))


def warn_of_broken_seams() -> None:
    """Say once, in a run without TwinFlow, that it could not be had here; the host runs untouched."""
    if broken:
        # The host configures logging while it starts; a logger made earlier would be switched off.
        logging.getLogger("simpletuner_twinflow").warning(
            "TwinFlow is not available with SimpleTuner %s: %s. Runs without twinflow_enabled go on.",
            versions.host_version(),
            "; ".join(dict.fromkeys(broken)),
        )


def wrap(module: ModuleType, path: str, wrapper: Callable) -> None:
    """Wrap `path` of `module`; `wrapper(wrapped, instance, args, kwargs)` as wrapt calls it."""
    wrapt.wrap_function_wrapper(module, path, wrapper)


def refuse_broken_seams() -> None:
    """End a run that asks for TwinFlow on a host where it cannot work as promised.

    Imports every hooked host module first, so that a seam in a module which the host loads late is known at start-up.

    Raises:
        HostVersionError: Names the host's version, the seam (if one is missing) and the supported range.
    """
    problems = list(broken)
    for name in dict.fromkeys(entry.name for entry in hook_entry_points()):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # a dependency of the host is missing, which is not about this plugin
            problems.append(f"{name} is missing")
    problems = list(dict.fromkeys([*problems, *broken]))
    if problems or not versions.is_supported():
        reason = f": {'; '.join(problems)}" if problems else ""
        raise HostVersionError(
            f"twinflow_enabled is true, but simpletuner-twinflow does not support SimpleTuner "
            f"{versions.host_version()}{reason}. Supported: simpletuner{versions.supported_range()}. Install one of "
            "those or set twinflow_enabled to false."
        )
