"""Whether SimpleTuner computes in parts what it computes whole, family by family: two processes share a batch's tokens.

python -m testbed.host_models.in_parts [names]      a line of JSON each; all families of the zoo, or those named

It is SimpleTuner's own network, batch and exchange (alltoall) without TwinFlow; what it finds is what
`host/settings/context_parallel.py` accepts and refuses.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from simpletuner.helpers.training.context_parallel import (
    apply_standalone_context_parallel,
    build_context_parallel_topology,
    configure_cp_only_accelerator,
)

from testbed.cpu import one_accelerator
from testbed.host_models import tiny
from testbed.host_models.flow import host_batch, host_model, pipeline_folder
from testbed.host_models.zoo import ZOO

EXCHANGE = "alltoall"
EVEN = 4  # tokens of a prompt, which some families share out too
LIMIT = 60.0  # seconds; where one process fails, the other waits for it


def compared(name: str, folder: Path) -> dict[str, Any]:
    """How far a family's output, and its gradient, in parts are from those of the whole, of the largest value.

    Args: name: of the zoo. folder: of this process alone, empty.
    """
    even = {key: _even(shape) for key, shape in ZOO[name].text.items()}
    keys = {"context_parallel_size": 2, "context_parallel_comm_strategy": EXCHANGE}
    plain = {"twinflow_enabled": False, "twinflow_adversarial_enabled": None}
    with patch.object(tiny, "WORDS", EVEN), patch.dict(ZOO, {name: replace(ZOO[name], text=even)}):
        model = host_model(name, pipeline_folder(folder), **keys, **plain)
        batch = host_batch(model)
    model.before_accelerator_prepare()
    network = model.get_trained_component(unwrap_model=True).eval().requires_grad_(True)

    def computed() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model.model_predict(prepared_batch=dict(batch))["model_prediction"].float()
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
        network.zero_grad(set_to_none=True)
        (output * weights).mean().backward()
        return output.detach(), {
            key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for key, parameter in network.named_parameters()
        }

    output, gradient = computed()
    topology = build_context_parallel_topology(model.config, 2, 2, EXCHANGE)
    configure_cp_only_accelerator(model.accelerator, topology)
    apply_standalone_context_parallel(model.accelerator, network, topology)
    in_parts, parts = computed()
    for part in parts.values():
        dist.all_reduce(part)  # as DDP does, and the host counts its mean twice
    if in_parts.shape != output.shape:
        return {"error": f"an output of the shape {tuple(in_parts.shape)}, not {tuple(output.shape)}"}
    largest = max(float(part.abs().max()) for part in gradient.values())
    return {
        "output": float((in_parts - output).abs().max() / output.abs().max()),
        "gradient": max(float((parts[key] - gradient[key]).abs().max()) for key in parts) / largest,
    }


def _even(shape: Any) -> Any:
    return tuple(EVEN if size == tiny.WORDS else size for size in shape) if isinstance(shape, tuple) else shape


def _process(name: str, rank: int, folder: Path) -> None:
    """One of two; what it finds goes into a file."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what diffusers itself uses is deprecated in torch
    one_accelerator.stand_in()
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        found = compared(name, folder / str(rank))
    except Exception as error:  # noqa: BLE001 - whatever the host ends with is what is looked for
        said = str(error).splitlines()
        found = {"error": f"{type(error).__name__}: {said[0] if said else ''}"[:160]}
    (folder / f"found-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def found_of(name: str) -> dict[str, Any]:
    """What a family comes to, in two forked processes, of which the first one speaks."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, running, until = Path(temporary), set[int](), time.monotonic() + LIMIT
        for rank in range(2):
            (folder / str(rank)).mkdir()
            with warnings.catch_warnings(action="ignore"):  # of threads, of which a test's process has some
                child = os.fork()
            if child == 0:
                try:
                    _process(name, rank, folder)
                finally:
                    os._exit(0)
            running.add(child)
        while running and time.monotonic() < until:
            running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
            if len(running) == 1:
                until = min(until, time.monotonic() + 10)
            time.sleep(0.05)
        for child in running:
            os.kill(child, 9)
            os.waitpid(child, 0)
        file = folder / "found-0.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"error": "it waits for ever"}


if __name__ == "__main__":
    for each in sys.argv[1:] or ZOO:
        print(json.dumps({"family": each} | found_of(each)), flush=True)
