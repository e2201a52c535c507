"""Prints how many finders of ours there are, and what has been imported; registers one for each argument first."""

import sys

if len(sys.argv) > 1:
    import simpletuner_twinflow._startup

    for _ in sys.argv[1:]:
        simpletuner_twinflow._startup.register()

finders = sum(type(finder).__name__ == "HostFinder" for finder in sys.meta_path)
print(finders, sorted({"torch", "simpletuner", "wrapt", "simpletuner_twinflow.host"} & set(sys.modules)))
