"""Notes, inside a run of the host, the processor time at the end of each optimizer step."""

import importlib
import os
import time
from typing import Any

import wrapt

FILE = "COST_FILE"  # environment variable: where the times go, a line each


def watch() -> None:
    """Begin; called in the run before its trainer starts."""
    name = os.environ[FILE]

    def step(wrapped: Any, optimizer: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        if optimizer.gradient_state.sync_gradients:  # called for each accumulated batch, and acts at the last
            with open(name, "a", encoding="utf-8") as file:
                file.write(f"{time.process_time()}\n")
        return result

    importlib.import_module("accelerate.optimizer")
    wrapt.wrap_function_wrapper("accelerate.optimizer", "AcceleratedOptimizer.step", step)
