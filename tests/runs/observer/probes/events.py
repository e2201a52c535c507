"""Events of a run: lines of JSON in the file that OBSERVER_FILE names, with the rank in the place of {rank}."""

import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt


def note(**event: Any) -> None:
    """Write an event."""
    name = os.environ["OBSERVER_FILE"].replace("{rank}", os.environ.get("RANK", "0"))
    with open(name, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def before(module: str, path: str, describe: Callable[[Any, tuple, dict], dict | None]) -> None:
    """Note what `describe` makes of each call of a function, then let it run.

    Args:
        module: name of the function's module, which need not be imported yet.
        path: of the function in it.
        describe: takes instance, args and kwargs of the call; None for no event.
    """

    def call(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
        event = describe(instance, args, kwargs)
        if event is not None:
            note(**event)
        return wrapped(*args, **kwargs)

    around(module, path, call)


def around(module: str, path: str, wrapper: Callable[[Callable, Any, tuple, dict], Any]) -> None:
    """Wrap a function as soon as its module is imported."""

    def wrap(imported: ModuleType) -> None:
        wrapt.wrap_function_wrapper(imported, path, wrapper)

    wrapt.register_post_import_hook(wrap, module)


def replace(module: str, path: str, made: Callable[[Any], Any]) -> None:
    """Put `made(what stands there)` in the place of a module's or a class's attribute, once the module is imported."""

    def change(imported: ModuleType) -> None:
        *owners, name = path.split(".")
        owner: Any = imported
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, made(getattr(owner, name)))

    wrapt.register_post_import_hook(change, module)
