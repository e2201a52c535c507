"""What attaching puts into the host, each piece with what was there before, so that all of it can be taken out again.

`seams` puts it there; `attachment` takes it out. The host's other modules may hold copies of what was put there, since
`from module import name` copies a name: `spread` and `undo` follow those. A copy that is held by anything else, a
partial or an object, cannot be found, and lets calls through while the plugin is detached.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

from simpletuner_twinflow._startup import HOST

PACKAGE = "simpletuner_twinflow."


@dataclass(frozen=True)
class Change:
    """An attribute of the host's, as it was and as it is now."""

    owner: Any  # a module or a class
    name: str
    own: tuple[Any, ...]  # the attribute that the owner had of its own; empty if it inherited one or had none
    ours: Any

    @property
    def place(self) -> str:
        """For messages."""
        inside = "" if isinstance(self.owner, ModuleType) else f"{self.owner.__module__}."
        return f"{inside}{self.owner.__name__}.{self.name}"

    @property
    def stands(self) -> bool:
        """Whether the attribute is still ours."""
        return vars(self.owner).get(self.name) is self.ours


_changes: list[Change] = []
_covered: list[Change] = []  # could not be undone: somebody else's attribute has taken the place since
_callbacks: list[Callable[[], None]] = []
_attached = True  # the start-up file attaches, unless the plugin is switched off


def is_attached() -> bool:
    """Whether what is in the host acts; otherwise it lets calls through."""
    return _attached


def set_attached(attached: bool) -> None:
    """Say whether what is in the host acts."""
    global _attached
    _attached = attached


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a module or a class, to be undone; not where ours of another time is, beneath another's."""
    if any(change.owner is owner and change.name == name for change in _covered):
        return
    own = (vars(owner)[name],) if name in vars(owner) else ()
    _changes.append(Change(owner, name, own, value))
    setattr(owner, name, value)


def when_undone(callback: Callable[[], None]) -> None:
    """Call this, once, when the changes are undone: for what is changed otherwise than by setting an attribute."""
    _callbacks.append(callback)


def restore(owner: Any, name: str, own: tuple[Any, ...]) -> None:
    """Give the owner the attribute back that it had of its own, or take it away."""
    if own:
        setattr(owner, name, own[0])
    elif name in vars(owner):
        delattr(owner, name)


def undo() -> list[str]:
    """Undo all changes, the last one first. Returns: the places where somebody else's attribute covers ours."""
    while _callbacks:
        _callbacks.pop()()
    undone, covered = [], []
    for change in [*reversed(_changes), *reversed(_covered)]:
        if change.stands:
            restore(change.owner, change.name, change.own)
            undone.append(change)
        else:
            covered.append(change)
    _changes.clear()
    _covered[:] = reversed(covered)
    # Among what is put there may be the host's own class, where the name of the plugin's is to mean it.
    _replace_copies({id(each.ours): each.own[0] for each in undone if each.own and _is_made_here(each.ours)})
    return [change.place for change in _covered]


def spread() -> None:
    """Have the copies of the host's own functions that other modules of the host took before be ours, too."""
    first: dict[tuple[int, str], Any] = {}
    for change in _changes:
        if isinstance(change.owner, ModuleType) and change.own:
            first.setdefault((id(change.owner), change.name), (change.owner, change.name, change.own[0]))
    # What a module has from elsewhere, such as a class of the standard library, others have from there too.
    _replace_copies(
        {
            id(original): vars(owner)[name]
            for owner, name, original in first.values()
            if callable(original) and getattr(original, "__module__", None) == owner.__name__
        }
    )


def _replace_copies(replacements: dict[int, Any]) -> None:
    """Replace, by identity, what modules of the host and the tables in them hold, but for what we put there."""
    ours = {(id(change.owner), change.name) for change in _changes}
    for module in _host_modules():
        for key, value in list(vars(module).items()):
            if (id(module), key) in ours:
                continue
            if id(value) in replacements:
                setattr(module, key, _last(replacements, value))
            elif type(value) is dict:
                for entry, item in value.items():
                    if id(item) in replacements:
                        value[entry] = _last(replacements, item)


def _is_made_here(value: Any) -> bool:
    """Whether this is a wrapper or a class of the plugin's."""
    return isinstance(value, wrapt.FunctionWrapper) or getattr(value, "__module__", "").startswith(PACKAGE)


def _last(replacements: dict[int, Any], value: Any) -> Any:
    """The end of a chain: a wrapper of a wrapper gives way to the function itself."""
    while id(value) in replacements:
        value = replacements[id(value)]
    return value


def _host_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (name == HOST or name.startswith(f"{HOST}.")):
            yield module
