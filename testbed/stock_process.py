"""A program: runs a script without plugin and host. Arguments: the script; a file for the network's first inputs."""

import os
import runpy
import sys
from collections.abc import Iterator
from functools import wraps
from typing import Any

sys.modules["simpletuner_twinflow"] = None  # importing it raises ImportError
if os.environ.get("TESTBED_WITH_HOST") != "1":
    sys.modules["simpletuner"] = None


def note_first_inputs(file: str) -> None:
    """Have the next pipeline's network write all tensors that it is given first; where it has one, what encodes those
    of the prompt for it.
    """
    import diffusers
    import torch

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    def noting(move: Any) -> Any:
        @wraps(move)
        def to(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            def note(network: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                torch.save(list(tensors([args, kwargs])), file)
                handle.remove()

            parts = (getattr(pipeline, name, None) for name in ("condition_encoder", "unet", "transformer"))
            network = next(part for part in parts if part is not None)
            handle = network.register_forward_pre_hook(note, with_kwargs=True)
            return move(pipeline, *args, **kwargs)

        return to

    for kind in (diffusers.DiffusionPipeline, diffusers.ModularPipeline):
        kind.to = noting(kind.to)


if __name__ == "__main__":
    script, *condition = sys.argv[1:]
    sys.path[0] = ""  # as of code that is given to the interpreter
    for file in condition:
        note_first_inputs(file)
    runpy.run_path(script, run_name="__main__")
