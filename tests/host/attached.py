"""Writes, as JSON, what attaching the plugin replaces in the host: a list of "module: name" or "module: Class.name".

Run with the plugin disabled, so that the hooks are applied here and not while the host is imported.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.seams import all_hooks

Places = dict[tuple[str, str], Any]


def places() -> Places:
    """All names of the host's modules and of their classes, and what stands in tables that a module holds."""
    found: Places = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("simpletuner.") or not isinstance(module, ModuleType):
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {(name, f"{value.__qualname__}.{attribute}"): item for attribute, item in vars(value).items()}
            elif isinstance(value, dict):
                found |= {(name, f"{key}[{entry!r}]"): item for entry, item in value.items()}
    return found


def main() -> None:
    """Import the host, apply every hook, compare."""
    for module in {name for name, _ in all_hooks()} | {seam.module for _, hook in all_hooks() for seam in hook.seams}:
        if module:
            import_module(module)
    before = places()
    for name, hook in all_hooks():
        hook(sys.modules[name])
    after = places()
    changed = [place for place in before | after if before.get(place) is not after.get(place)]
    Path(sys.argv[1]).write_text(json.dumps(sorted(f"{module}: {name}" for module, name in changed)), encoding="utf-8")


if __name__ == "__main__":
    main()
