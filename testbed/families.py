"""Takes model families through the whole trainer, from files on disk to pictures that stock diffusers draws.

python -m testbed.families [names]        all that can be built tiny, or those named; the table goes to standard output
"""

import argparse
import gzip
import io
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from simpletuner_twinflow.host.drawing.cosmos3 import FIRST_FRAME
from simpletuner_twinflow.host.training.mended import MENDED
from testbed.clips import write_first_frame
from testbed.forkserver import ForkServer
from testbed.hub import fill, stock_home
from testbed.pipelines import write
from testbed.recipes import ANIMATES, COMMON, FAMILIES, MODEL, PRELUDES, READ_BY_HOST, TWINFLOW, WITHOUT_STOCK
from testbed.samples import samples_of
from testbed.stock import CONDITION, run_without_plugin_and_host
from testbed.trainer import ROOT, cpu_environment, write_run

TERMS = {"twinflow/rcgm", "twinflow/real_velocity", "twinflow/adversarial", "twinflow/rectify"}
LIMIT = 300  # seconds of one run


class StageError(Exception):
    """A stage did not come to what it must; the message says what was found."""


@dataclass
class Passage:
    """A family's way through the trainer."""

    name: str
    root: Path
    server: ForkServer
    failed: bool = False
    blocked: bool = False  # whether the next stage lacks what it is built on

    def go(self, stage: str) -> str:
        """Walk a stage; one that is built on a failed one is left out. Returns: the seconds it took, or what failed."""
        if self.blocked:
            return "not reached"
        began = time.monotonic()
        try:
            STAGES[stage](self)
        except StageError as error:
            self.failed, self.blocked = True, stage != "plain"
            return f"FAILED: {error}"
        seconds = f"{time.monotonic() - began:.0f} s"
        return f"ends in the host, {seconds}" if stage == "plain" and self.is_mended else seconds

    @property
    def is_mended(self) -> bool:
        """Whether the host alone cannot train the family."""
        return self.name.split()[0] in MENDED

    def config(self, **changes: Any) -> dict[str, Any]:
        """The run's keys."""
        family, *flavour = self.name.split()
        own = ({"model_flavour": flavour[0]} if flavour else {}) | FAMILIES[self.name]
        model = str(self.root / "models" / self.name)
        own = {key: value.replace(MODEL, model) if isinstance(value, str) else value for key, value in own.items()}
        return COMMON | {"model_family": family, "pretrained_model_name_or_path": model} | own | changes

    def folder(self, run: str) -> Path:
        """Of a run."""
        return self.root / "runs" / self.name / run

    def train(self, run: str, **changes: Any) -> Path:
        """Run the host to its end in the folder of a run, anew if it is not to resume. Returns: the output's folder.

        Raises:
            StageError: The host failed.
        """
        folder = self.folder(run)
        if "resume_from_checkpoint" not in changes:
            shutil.rmtree(folder, ignore_errors=True)
        samples, data = samples_of(self.name, self.root)
        write_run(folder, self.config(**changes), samples, data=data)
        log = folder / "log.txt"
        if code := self.server.start(folder, log, {}, LIMIT, prelude=PRELUDES.get(self.name, "")).result():
            raise StageError(f"exit {code}: {_last_error(log.read_text(encoding='utf-8', errors='replace'))}")
        return folder / "output"


def plain(passage: Passage) -> None:
    """The host by itself, which ends early only where a fault of it is mended in a TwinFlow run."""
    mended = passage.is_mended
    try:
        passage.train("plain", validation_disable=True, twinflow_allow_diff2flow=None)
    except StageError:
        if not mended:
            raise
    else:
        if mended:
            raise StageError("the host can train it by itself: take it out of MENDED")


def twinflow(passage: Passage) -> None:
    """Everything on; terms are finite at each step, quality is measured, and validation draws with student and EMA."""
    output = passage.train("twinflow", **TWINFLOW)
    _check_losses(output, steps=2)
    _check_quality(output, step=2)
    if not sorted(output.glob("validation_images/step_2_*")):
        raise StageError("no validation picture")
    if not (output / "checkpoint-2").is_dir():
        raise StageError("no checkpoint")


def resume(passage: Passage) -> None:
    """Go on from the checkpoint, to the export."""
    longer = {"max_train_steps": 4, "checkpointing_steps": 4, "resume_from_checkpoint": "latest"}
    output = passage.train("twinflow", **TWINFLOW | longer)
    _check_losses(output, steps=4)
    if not (output / "checkpoint-4").is_dir():
        raise StageError("no checkpoint of the resumed run")


def card(passage: Passage) -> None:
    """The model card's code, where neither the plugin nor the host is installed: stock diffusers loads and draws.

    Where the host alone has the pipeline, its classes do.
    """
    folder = passage.folder("twinflow")
    output = folder / "output"
    file = (output / "pipeline" if (output / "pipeline").exists() else output) / "README.md"
    if not file.exists():
        raise StageError("no model card")
    code, *_ = [*re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL), None]
    if (code is None) != (passage.name in WITHOUT_STOCK):
        raise StageError("no code" if code is None else "code that stock diffusers cannot run")
    if code is None:
        return
    for drawn in folder.glob("output.*"):
        drawn.unlink()
    if passage.name in ANIMATES:
        write_first_frame(folder / FIRST_FRAME)
    host, home = passage.name in READ_BY_HOST, passage.root / "hub"
    if stock_home(home).exists() and not host:
        home = stock_home(home)
    result = run_without_plugin_and_host(code, folder, note_condition=True, with_host=host, home=home)
    if result.returncode:
        raise StageError(_last_error(result.stderr))
    if not [file for file in folder.glob("output.*") if file.stat().st_size > 100]:
        raise StageError("the card's code drew nothing")


def prompt(passage: Passage) -> None:
    """What the card's code gave the network as the prompt is what the run was trained with."""
    if passage.name in WITHOUT_STOCK:
        return  # its card has no code
    folder = passage.folder("twinflow")
    given = [form for tensor in torch.load(folder / CONDITION) for form in _unpadded(tensor)]
    cached = [_cached(file) for file in sorted(folder.glob("cache/text/*.pt"))]
    trained = [_given(entry, passage.root / "models" / passage.name) for entry in cached]
    if not any(all(any(_same(*pair) for pair in product(forms, given)) for forms in prompt) for prompt in trained):
        shapes = [[tuple(tensor.squeeze().shape) for tensor in tensors] for tensors in (*trained[0], given)]
        raise StageError(f"trained with {shapes[:-1]}, the card's code with {shapes[-1]}")


def _cached(file: Path) -> dict[str, Any]:
    """What the host's cache holds of a prompt; it is compressed."""
    return torch.load(io.BytesIO(gzip.decompress(file.read_bytes())))


def _given(entry: dict[str, Any], model: Path) -> list[list[torch.Tensor]]:
    """What a network is given of a cached prompt, as `_embeddings` has it; LTX-Video 2 makes that anew in each pass."""
    if not (connectors := model / "connectors").exists():
        return _embeddings(entry)
    from testbed.host_models.ltx2 import connected_in  # SimpleTuner, which takes a while to import

    return connected_in(entry, connectors)


def _embeddings(entry: dict[str, Any]) -> list[list[torch.Tensor]]:
    """Each embedding of a prompt in the forms that a network may be given it: padded, and without the padding.

    A network that reads the prompt itself is given tokens.
    """
    if (read := entry.get("cosmos3_reasoner_cache")) is not None:
        return [[read["input_ids"]]]
    masks = [value for name, value in entry.items() if "mask" in name and isinstance(value, torch.Tensor)]
    embeddings = [value.squeeze() for name, value in entry.items() if "mask" not in name and _is_sequence(value)]
    lengths = {int(mask.sum()) for mask in masks if mask.squeeze().ndim == 1}
    return [[value, *(value[:length] for length in lengths)] for value in embeddings]


def _unpadded(given: torch.Tensor) -> list[torch.Tensor]:
    """A tensor, and a sequence of rows also without those that are zero: padding, and places of the picture."""
    rows = given.squeeze()
    return [given, rows[rows.any(dim=1)]] if _is_sequence(given) and rows.ndim == 2 else [given]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.squeeze().ndim > 1


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.squeeze().float(), other.squeeze().float()
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)


STAGES: dict[str, Callable[[Passage], None]] = {
    "plain": plain,
    "TwinFlow": twinflow,
    "resume": resume,
    "card": card,
    "prompt": prompt,
}


def _logged(output: Path) -> list[dict[str, Any]]:
    """What the host's own tracker holds of a run."""
    lines = [line for file in output.rglob("training_metrics.jsonl") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def _check_quality(output: Path, step: int) -> None:
    found: dict[str, float] = {}
    for entry in _logged(output):
        if entry["step"] == step:
            found |= {name: value for name, value in entry["metrics"].items() if name.startswith("twinflow/quality/")}
    for who in ("ema_1", "ema_2", "ema_4", "student_1", "base_20"):
        if not all(
            math.isfinite(found.get(f"twinflow/quality/{who}/{kind}", math.nan)) for kind in ("mmd", "diversity")
        ):
            raise StageError(f"no quality of {who} at step {step}, but of {', '.join(found) or 'nothing'}")


def _check_losses(output: Path, steps: int) -> None:
    logged = _logged(output)
    found = {entry["step"]: entry["metrics"] for entry in logged if "train_loss" in entry["metrics"]}
    if found.keys() != set(range(1, steps + 1)):
        raise StageError(f"losses of the steps {sorted(found)}, not of 1 to {steps}")
    for step, values in found.items():
        if lacking := TERMS - values.keys():
            raise StageError(f"step {step} has no {', '.join(sorted(lacking))}")
        if odd := [name for name in TERMS if not math.isfinite(values[name])]:
            raise StageError(f"step {step}: {odd[0]} is {values[odd[0]]}")


def _last_error(log: str) -> str:
    """The line that says most: the last one of an exception, or the last at all."""
    lines = [line for found in re.sub(r"\x1b\[\d*m", "", log).splitlines() if (line := found.strip())]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or lines or ["nothing was logged"])[-1][:200]


def main(arguments: list[str]) -> int:
    """Print a row a family as it is done. Returns: the number of families that did not come through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of: {', '.join(FAMILIES)}; default: all")
    parser.add_argument("--folder", type=Path, default=Path("output/families"))
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - FAMILIES.keys():
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    root = given.folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    own = {"PYTHONPATH": str(ROOT / "testbed/cpu"), "HF_HOME": str(root / "hub")}
    server = ForkServer(os.environ | cpu_environment() | own, root / "server.txt")
    failed = 0
    print("| family |", " | ".join(STAGES), "|\n|---|" + "---|" * len(STAGES), flush=True)
    try:
        for name in given.names or FAMILIES:
            model = write(name, root / "models" / name)
            fill(root / "hub", name, model)
            passage = Passage(name, root, server)
            print(f"| {name} ", end="", flush=True)
            for stage in STAGES:
                print(f"| {passage.go(stage)} ", end="", flush=True)
            print("|", flush=True)
            failed += passage.failed
    finally:
        server.close()
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
