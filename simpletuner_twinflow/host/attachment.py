"""Attach and detach by hand: for a program that starts runs with and without the plugin in one process, and for tests.

The start-up file attaches by itself; nobody needs this for `simpletuner train`. Both take effect for runs that start
afterwards: a run is under way with what it has set on its own trainer, model and optimizer, which is not taken away.
"""

import sys

from simpletuner_twinflow._hooks import hook_entry_points, register_hooks
from simpletuner_twinflow._startup import HostFinder
from simpletuner_twinflow.host import changes
from simpletuner_twinflow.host.seams import PARSER, all_hooks, forget_attached, set_on


def attach() -> None:
    """Attach to the host's modules that are imported, now, and to others when they are; again, to none twice.

    An environment variable that switches the plugin off holds for the start-up file alone.
    """
    changes.set_attached(True)
    register_hooks()
    for name in dict.fromkeys(entry.name for entry in hook_entry_points()):
        # Those that were imported while the plugin was detached, or attached before; the others wait.
        if (module := sys.modules.get(name)) is not None:
            for _, hook in all_hooks(name):
                hook(module)
    changes.spread()
    _forget_parser()


def detach() -> list[str]:
    """Give the host its own functions, classes and tables back, the same objects, and attach to no further module.

    Keys named `twinflow_*` are the host's own afterwards: with `twinflow_enabled` it trains by its implementation.

    Returns: places where somebody has laid a patch of theirs over ours since. Ours stays below and lets calls through.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, HostFinder)]
    changes.set_attached(False)
    covered = changes.undo()
    forget_attached()
    _forget_parser()
    return covered


def _forget_parser() -> None:
    """Have the host's parser be built anew: it keeps the one that it has built, with the keys of that time."""
    if getattr(parser := sys.modules.get(PARSER), "_ARG_PARSER_CACHE", None) is not None:
        set_on(parser, "_ARG_PARSER_CACHE", None)
