"""Runs whose frozen base is streamed, by SimpleTuner's block swap and by RamTorch; the adapter stays on the device."""

import copy
import shutil
import subprocess
import sys
from typing import NamedTuple

import torch

from testbed.pipelines import awaken, qwen
from tests.runs.harness import ROOT, SEED, TINY, Host, Runs
from tests.runs.observer.probes.streamed import note_sent_blocks, steps_with_ramtorch
from tests.runs.run import Run

KREA = {"model_family": "krea2", "validation_disable": True, "max_train_steps": 3, "twinflow_adversarial_enabled": True}
ROWS = {"train_batch_size": 4, "gradient_accumulation_steps": 2}
# SimpleTuner swaps nothing between equal devices; torch takes these for two.
SWAP = {"musubi_blocks_to_swap": 2, "musubi_block_swap_device": "cpu:0"}


class Swapped(NamedTuple):
    """The same run with all blocks in their places, with blocks swapped, and with checkpointing beside that."""

    whole: Run
    swapped: Run
    checkpointed: Run


def swapped_blocks(host: Host, runs: Runs) -> Swapped:
    """A Krea 2 of three blocks, since SimpleTuner hands the key on to some families alone."""
    host = copy.copy(host)
    host.pipeline = host.folder / "krea2"
    # In a process of its own: a test that loads a model meanwhile has torch make all modules of this one without data.
    code = f"from {__name__} import write_krea2; write_krea2({str(host.pipeline)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    config = {key: value for key, value in (SEED | TINY | KREA | ROWS).items() if key != "model_flavour"}
    first = host.train("swapped_first", config | {"max_train_steps": 1})
    for name in ("whole", "swapped", "checkpointed"):  # all three find the caches
        shutil.copytree(first.folder / "cache", host.folder / f"swapped_{name}/cache")
    return Swapped(
        host.train("swapped_whole", config),
        host.train("swapped_swapped", config | SWAP, probe=note_sent_blocks),
        host.train("swapped_checkpointed", config | SWAP | {"gradient_checkpointing": True}, probe=note_sent_blocks),
    )


def write_krea2(folder: str) -> None:
    """A tiny pipeline whose network has three blocks, of which two can be swapped."""
    pipeline = qwen.krea2()
    settings = {key: value for key, value in pipeline.transformer.config.items() if not key.startswith("_")}
    torch.manual_seed(0)
    network = type(pipeline.transformer)(**settings | {"num_layers": 3})
    awaken(network)
    pipeline.register_modules(transformer=network)
    pipeline.save_pretrained(folder)


def ramtorch(host: Host, runs: Runs) -> Run:
    """Its layers in the place of all linear ones of the base."""
    config = (
        SEED | TINY | ROWS | {"validation_disable": True, "max_train_steps": 2, "twinflow_adversarial_enabled": True}
    )
    return host.train("ramtorch", config, probe=steps_with_ramtorch)


STREAMED_RECIPES = {"swapped_blocks": swapped_blocks, "ramtorch": ramtorch}
