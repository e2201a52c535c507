"""Prints the seconds that the start-up file's line takes. Argument: the site-packages folder to import from."""

import os  # noqa: F401 - site loads it before the start-up file
import sys

sys.path.append(sys.argv[1])

import time

start = time.perf_counter()
import simpletuner_twinflow._startup  # noqa: E402

simpletuner_twinflow._startup.register()
print(time.perf_counter() - start)
