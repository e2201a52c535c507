"""Seams: the places in the host that the plugin touches. Each hook declares its own, and they are checked first.

A hook is needed or optional. A module's needed hooks are applied all or none: if one of their seams is missing or lacks
a parameter, the host runs untouched, and a run that asks for TwinFlow is refused at start-up (`refuse_broken_seams`).
Without an optional hook a TwinFlow run goes on, and the log names what is lost; if only some runs need the hook, these
are refused. docs/architecture.md lists all seams.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, update_wrapper
from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

from simpletuner_twinflow._hooks import hook_entry_points
from simpletuner_twinflow.errors import HostVersionError, TwinFlowError
from simpletuner_twinflow.host import changes, versions

MODELS = "simpletuner.helpers.models.common"  # where the base class of the host's model families is
STATE = "simpletuner.helpers.training.state_tracker"
PARSER = "simpletuner.helpers.configuration.cmd_args"
CONFIG = "config"  # owner of the seams that are keys of the run's configuration


class Touch(StrEnum):
    """What the plugin does at a seam."""

    wrapped = "wrapped"  # in every run; without TwinFlow the call goes straight through
    replaced = "replaced"  # in the module, for good
    on_run = "replaced on a TwinFlow run's own object"
    in_block = "replaced for the length of a block"
    given = "set on a TwinFlow run's own object, where the host looks for it"
    read = "called or read"


@dataclass(frozen=True)
class Seam:
    """A name in a host module, with the parameters that the plugin passes or reads there."""

    path: str  # "function", "Class.method" or "config.key"
    parameters: tuple[str, ...] = ()
    touch: Touch = Touch.wrapped
    module: str = ""  # where it is; empty for the module that the hook waits for

    def problem(self, module: ModuleType) -> str | None:
        """What is wrong with this seam in `module`; None when it is as expected."""
        if self.owner == CONFIG:
            return None  # a key that the host lacks can be set all the same
        where = f"{module.__name__}.{self.path}"
        found: Any = module
        for part in self.path.split("."):
            # vars() and not getattr(): an inherited method would be patched in the wrong class.
            if part not in vars(found):
                return None if self._is_made_by(found) else f"{where} is missing"
            found = vars(found)[part]
        if not self.parameters:
            return None
        accepted = inspect.signature(getattr(found, "__func__", found)).parameters
        lacking = [name for name in self.parameters if name not in accepted]
        any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        return f"{where} lacks the parameter {', '.join(lacking)}" if lacking and not any_name else None

    def _is_made_by(self, owner: Any) -> bool:
        """Whether this is an attribute that the class sets in `__init__`, or that the plugin sets."""
        if self.touch is Touch.given or self.path.endswith(".__init__"):
            return True
        if not isinstance(owner, type) or self.parameters or self.touch is Touch.wrapped:
            return False
        made = getattr(inspect.unwrap(vars(owner).get("__init__", owner)), "__code__", None)
        return made is not None and self.path.rpartition(".")[2] in made.co_names

    @property
    def owner(self) -> str:
        """The class, or "config"; empty for a name of the module itself."""
        return self.path.rpartition(".")[0]


Config = Mapping[str, Any]  # keys without dashes
broken: list[str] = []  # problems of needed seams
lost: dict[str, str] = {}  # problem of an optional seam -> what a TwinFlow run does without
_attached: set[tuple[str, str]] = set()
_attaching: list[tuple[str, "Hook"]] = []  # the hook that is attached at the moment, if any, and its module


class Hook:
    """A function that attaches the plugin to a host module: called once a module, if its seams are as declared."""

    def __init__(
        self,
        attach: Callable[[ModuleType], None],
        seams: tuple[Seam, ...],
        lost: str | None,
        needed_by: Callable[[Config], bool] | None,
    ) -> None:
        """See `uses`."""
        update_wrapper(self, attach)
        self.attach, self.seams, self.lost, self.needed_by = attach, seams, lost, needed_by
        self.problems: list[str] = []  # of an optional hook
        self.enabled = True  # what it has wrapped; an optional hook is switched off where one of its seams is missing

    def __call__(self, module: ModuleType) -> None:
        """Attach to this module, or record what is wrong with its seams."""
        key = (module.__name__, f"{self.attach.__module__}.{self.attach.__qualname__}")
        if changes.is_attached() and key not in _attached and self._fits(module):
            _attached.add(key)
            _attaching.append((module.__name__, self))
            try:
                self.attach(module)
            finally:
                _attaching.pop()

    def _fits(self, module: ModuleType) -> bool:
        hooks = [self]
        if self.lost is None:  # needed hooks are applied all or none
            hooks += [other for _, other in all_hooks(module.__name__) if other.lost is None]
        seams = dict.fromkeys(seam for each in hooks for seam in each.seams if seam.module in ("", module.__name__))
        problems = [problem for seam in seams if (problem := seam.problem(module))]
        self.record(problems)
        return not problems

    def record(self, problems: list[str]) -> None:
        """Record problems of the hook's seams."""
        if self.lost is None:
            broken.extend(problem for problem in problems if problem not in broken)
        elif problems:
            self.problems += [problem for problem in problems if problem not in self.problems]
            self.enabled = False
            if self.needed_by is None:
                lost.update(dict.fromkeys(problems, self.lost))


def uses(
    *seams: Seam, lost: str | None = None, needed_by: Callable[[Config], bool] | None = None
) -> Callable[[Callable[[ModuleType], None]], Hook]:
    """Declare the seams of a hook.

    Args:
        seams: all that the hook and the code it installs touch.
        lost: of an optional hook, what a TwinFlow run lacks without it; None for a needed one.
        needed_by: of an optional hook, whether a run of this configuration needs it all the same and is refused without
            it; others are not told of it.
    """
    return lambda attach: Hook(attach, seams, lost, needed_by)


def all_hooks(module: str | None = None) -> list[tuple[str, Hook]]:
    """Every hook with the host module that it waits for. Args: module: only the hooks of this one.

    Loading a hook imports what it works with, torch for most: the hooks of other modules are left alone.
    """
    return [(entry.name, entry.load()) for entry in hook_entry_points() if module in (None, entry.name)]


def forget_attached() -> None:
    """Have every hook attach to its module when it is called again; once what they have changed is undone."""
    _attached.clear()


def wrap(module: ModuleType, path: str, wrapper: Callable[..., Any]) -> None:
    """Wrap `path` of `module`; `wrapper(wrapped, instance, args, kwargs)` as wrapt calls it."""
    hook = _attaching[-1][1] if _attaching else None

    def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not changes.is_attached() or (hook is not None and not hook.enabled):
            return wrapped(*args, **kwargs)
        return wrapper(wrapped, instance, args, kwargs)

    owner, name, original = wrapt.resolve_path(module, path)
    changes.put(owner, name, wrapt.FunctionWrapper(original, call))


def set_on(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a host's object, class, module or configuration.

    Raises:
        TwinFlowError: No hook declares it as a seam.
    """
    kinds = owner.__mro__ if isinstance(owner, type) else type(owner).__mro__
    owners = {owner.__name__} if isinstance(owner, ModuleType) else {kind.__name__ for kind in kinds}
    if "twinflow_enabled" in getattr(owner, "__dict__", {}):
        owners.add(CONFIG)
    # A hook that is being attached, in runs without TwinFlow too, answers for itself: the others need not be loaded.
    if not owners & (_owners_of(name, _attaching[-1:]) if _attaching else _owners_in_any_hook(name)):
        where = CONFIG if CONFIG in owners else getattr(owner, "__name__", type(owner).__name__)
        raise TwinFlowError(f"{where}.{name} is set, but no hook declares it as a seam.")
    (changes.put if _attaching else setattr)(owner, name, value)


@contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes as `set_on` does, for the length of the block."""
    with ExitStack() as restored:
        for name, value in values.items():
            own = (vars(owner)[name],) if name in vars(owner) else ()
            set_on(owner, name, value)
            restored.callback(changes.restore, owner, name, own)
        yield


def _owners_of(name: str, hooks: list[tuple[str, Hook]]) -> frozenset[str]:
    """The classes and modules on which one of these hooks declares that it sets this name."""
    return frozenset(
        seam.owner or seam.module or module
        for module, hook in hooks
        for seam in hook.seams
        if seam.path.rpartition(".")[2] == name and seam.touch not in (Touch.wrapped, Touch.read)
    )


@cache
def _owners_in_any_hook(name: str) -> frozenset[str]:
    return _owners_of(name, all_hooks())


def warn_of_broken_seams() -> None:
    """Log, in a run without TwinFlow, that this host does not support it; the host runs untouched."""
    if broken:
        # The host configures logging while it starts; a logger made earlier would be switched off.
        logging.getLogger("simpletuner_twinflow").warning(
            "TwinFlow is not available with SimpleTuner %s: %s. Runs without twinflow_enabled go on.",
            versions.host_version(),
            "; ".join(broken),
        )


def unmet(config: Config) -> list[str]:
    """What this run needs and the host lacks, of the hooks that only some runs need; once their seams were checked."""
    return [
        f"{hook.lost} ({'; '.join(hook.problems)})"
        for _, hook in all_hooks()
        if hook.needed_by is not None and hook.problems and hook.needed_by(config)
    ]


def refuse_broken_seams(config: Config) -> None:
    """Refuse TwinFlow on a host whose needed seams are broken, and log what is lost with broken optional ones.

    Imports every hooked host module first, so that seams in modules which the host loads late are checked too.

    Args: config: of the run.

    Raises:
        HostVersionError: Names the host's version, the seam (if one is missing) and the supported range.
    """
    for name, hook in all_hooks():
        for place in dict.fromkeys([name, *(seam.module for seam in hook.seams if seam.module)]):
            try:
                module = import_module(place)
            except ModuleNotFoundError as error:
                if error.name is None or not place.startswith(error.name):
                    raise  # a dependency of the host is missing
                hook.record([f"{place} is missing"])
            else:
                seams = [seam for seam in hook.seams if seam.module == place]
                hook.record([problem for seam in seams if (problem := seam.problem(module))])
    if (problems := [*broken, *unmet(config)]) or not versions.is_supported():
        reason = f": {'; '.join(problems)}" if problems else ""
        raise HostVersionError(
            f"twinflow_enabled is true, but simpletuner-twinflow does not support SimpleTuner "
            f"{versions.host_version()}{' with this configuration' * (not broken and bool(problems))}{reason}. "
            f"Supported: simpletuner{versions.supported_range()}. Install {'the newest' if problems else 'one'} of "
            "those or set twinflow_enabled to false."
        )
    for problem, what in lost.items():
        logging.getLogger("simpletuner_twinflow").warning("TwinFlow goes on, but %s: %s.", what, problem)
