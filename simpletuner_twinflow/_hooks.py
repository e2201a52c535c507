"""Hand the entry points of `pyproject.toml` to wrapt's post-import hooks."""

from importlib.metadata import EntryPoint, distribution

import wrapt

DISTRIBUTION = "simpletuner-twinflow"
GROUP_PREFIX = "simpletuner_twinflow."

_registered: set[tuple[str, str]] = set()


def hook_entry_points() -> tuple[EntryPoint, ...]:
    """All hooks, unordered: name = host module waited for, value = function called with it."""
    return tuple(entry for entry in distribution(DISTRIBUTION).entry_points if entry.group.startswith(GROUP_PREFIX))


def register_hooks() -> None:
    """Register each hook once; its function is imported after its host module."""
    for entry in hook_entry_points():
        key = (entry.name, entry.value)
        if key not in _registered:
            _registered.add(key)
            wrapt.register_post_import_hook(entry.value, entry.name)
