"""Imports the host, attaches and detaches in the order of the arguments; writes what stands in the host after each.

Arguments: a file, then "attach", "detach", "start" (some of the host's modules are imported) and "rest" (all others).
The file gets a list in JSON, an item a step; see `State`. Wrappers are told from the host's functions by their kind and
module, and the host's own objects are kept when each of its modules has been imported, before any hook of ours.
"""

import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import wrapt

from simpletuner_twinflow import attach, detach
from simpletuner_twinflow._hooks import hook_entry_points
from tests.host.attached import places

MODULES = sorted({entry.name for entry in hook_entry_points()})
START = ("configuration.cli_utils", "configuration.cmd_args", "training.collate", "training.custom_schedule")
PARSER = "simpletuner.helpers.configuration.cmd_args"
before: dict[tuple[str, str], Any] = {}


@dataclass
class State:
    """What stands in the host after a step."""

    step: str
    imported: list[str]  # of the modules that have hooks
    layers: dict[str, int]  # wrappers of ours, by place in a module that has hooks
    ours: list[str]  # every place that holds something of ours
    others: list[str]  # places that had something of the host's own, and now have something else than that
    keys: list[str]  # the parser's, named twinflow_*; none before the parser is imported


def is_wrapper(value: Any) -> bool:
    """Whether this is a wrapper that our `wrap` has made."""
    made_by = getattr(value, "_self_wrapper", None) if isinstance(value, wrapt.FunctionWrapper) else None
    return getattr(made_by, "__module__", "").startswith("simpletuner_twinflow.")


def is_ours(value: Any) -> bool:
    """Whether this is a wrapper, a function or a class of ours, or a table that was made with one."""
    if is_wrapper(value):
        return True
    return isinstance(value, type | FunctionType) and value.__module__.startswith("simpletuner_twinflow")


def layers(value: Any) -> int:
    """How many of our wrappers lie one in another."""
    count = 0
    while isinstance(value, wrapt.FunctionWrapper):
        count += is_wrapper(value)
        value = value.__wrapped__
    return count


def keep(module: ModuleType) -> None:
    """Remember a host module's own functions and classes, and these classes' attributes."""
    found = {(module.__name__, name): value for name, value in vars(module).items()}
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            found |= {(module.__name__, f"{name}.{key}"): item for key, item in vars(value).items()}
    kinds = (FunctionType, type, staticmethod, classmethod, property)
    before.update({place: value for place, value in found.items() if isinstance(value, kinds) and not is_ours(value)})


def state(step: str) -> State:
    """What stands in the host now."""
    now = places()
    parser = sys.modules.get(PARSER)
    options = parser.get_argument_parser()._option_string_actions if parser else ()
    return State(
        step,
        [name for name in MODULES if name in sys.modules],
        {f"{name}: {key}": count for (name, key), value in now.items() if name in MODULES and (count := layers(value))},
        sorted(f"{name}: {key}" for (name, key), value in now.items() if is_ours(value)),
        sorted(f"{name}: {key}" for (name, key), value in before.items() if now.get((name, key)) is not value),
        sorted(name.removeprefix("--") for name in options if name.startswith("--twinflow_")),
    )


def main() -> None:
    """Take the steps."""
    for name in MODULES:
        wrapt.register_post_import_hook(keep, name)
    states = []
    for step in sys.argv[2:]:
        if step in ("start", "rest"):
            for name in [f"simpletuner.helpers.{each}" for each in START] if step == "start" else MODULES:
                import_module(name)
        else:
            {"attach": attach, "detach": detach}[step]()
        states.append(asdict(state(step)))
    Path(sys.argv[1]).write_text(json.dumps(states), encoding="utf-8")


if __name__ == "__main__":
    main()
