"""Runs whose two processes share each batch's tokens, and the same runs in one process."""

import copy
import shutil
from pathlib import Path
from typing import Any

from testbed.pipelines import write
from testbed.recipes import COMMON, FAMILIES, TWINFLOW
from tests.runs.harness import Host, Runs
from tests.runs.observer.probes import context
from tests.runs.rank_recipes import drop
from tests.runs.resume_recipes import RESUMED
from tests.runs.run import Run

IN_GROUPS = {"context_parallel_size": 2, "context_parallel_comm_strategy": "alltoall"}
WAN: dict[str, Any] = COMMON | {"model_family": "wan"} | FAMILIES["wan"] | TWINFLOW
WAN |= {"max_train_steps": 4, "validation_steps": 2, "twinflow_quality_interval": 4, "twinflow_quality_sheet": 2}


def whole_lora(host: Host, runs: Runs) -> Run:
    """Four steps on a tiny Wan in one process, everything on, with latents that the other runs take over."""
    host = _on_wan(host)
    write("wan", host.pipeline)
    return host.train("whole_lora", WAN, probe=context.note_whole)


def shared_lora(host: Host, runs: Runs) -> tuple[list[Run], Path, list[Run]]:
    """The same in a group of two; its output; the last two steps again."""
    first = _start(host, runs, "shared_lora", WAN | IN_GROUPS)
    output = first[0].folder / "kept"
    shutil.copytree(first[0].output, output)
    drop(first[0], "checkpoint-4")
    again = _on_wan(host).train_on_ranks("shared_lora", WAN | IN_GROUPS | RESUMED, probe=context.note_parts)
    return first, output, again


def shared_full(host: Host, runs: Runs) -> list[Run]:
    """Two steps of a full fine-tune in a group of two, whose validation draws."""
    config = WAN | IN_GROUPS | {"model_type": "full", "max_train_steps": 2, "twinflow_quality_samples": 0}
    return _start(host, runs, "shared_full", config)


def _on_wan(host: Host) -> Host:
    host = copy.copy(host)
    host.pipeline = host.folder / "tiny_wan"
    return host


def _start(host: Host, runs: Runs, name: str, config: dict[str, Any]) -> list[Run]:
    """A run of two ranks on latents that are encoded already, since encoding moves random streams."""
    shutil.copytree(runs["whole_lora"].check().folder / "cache", host.folder / name / "cache")
    return _on_wan(host).train_on_ranks(name, config, probe=context.note_parts)


CONTEXT_RECIPES = {recipe.__name__: recipe for recipe in (whole_lora, shared_lora, shared_full)}
