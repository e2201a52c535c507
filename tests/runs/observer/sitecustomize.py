"""Watches a run of the host for the tests to read; found by every Python process that has this folder on PYTHONPATH."""

import os
from importlib import import_module

import pin_memory  # of testbed/cpu
import untraced
import watched

if "OBSERVER_PINS" not in os.environ:
    pin_memory.keep_unpinned()
untraced.keep_untraced()
watched.watch()

# A test's own probe or change, "module:function"; a run forked from a server has it called by the server instead.
if probe := os.environ.get("OBSERVER"):
    module, function = probe.split(":")
    getattr(import_module(module), function)()
