"""Imports `simpletuner`; prints whether every hook has been registered once, and whether the finder is still there."""

import sys

import simpletuner  # noqa: F401, TID251 - a stand-in
import wrapt.importer

from simpletuner_twinflow._hooks import hook_entry_points, register_hooks

register_hooks()
hooks = sum(map(len, wrapt.importer._post_import_hooks.values()))
print(hooks == len(hook_entry_points()) > 5, any(type(finder).__name__ == "HostFinder" for finder in sys.meta_path))
