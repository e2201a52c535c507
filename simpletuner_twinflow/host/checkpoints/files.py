"""A checkpoint's files: whether they are all there and whole, seen without loading them; and reading our own."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.shards import damage_of_shards, is_part

# Our files, in a folder and under a name in which no loader looks for an adapter.
STATE_FILE = Path("twinflow/state.json")
TIME_CONDITIONING_FILE = Path("twinflow/time_conditioning.pt")

STATE = "training_state.json"  # the host's; without its step a run would begin at 0 with a later step's weights
GUARD, MANIFEST = ".guard", "checkpoint_manifest.json"  # the host's: written last of all, and the list of all others
_TORCH_FILES = {".bin", ".pt", ".pth", ".pkl"}


class CheckpointError(TwinFlowError):
    """A file of a checkpoint cannot be used: "FILE PROBLEM: WAY OUT."."""

    def __init__(self, file: Path, problem: str, way_out: str = "resume from another checkpoint") -> None:
        """Args: problem: as the rest of a sentence that begins with the file."""
        super().__init__(f"{file} {problem}: {way_out}.")


def is_finished(folder: Path) -> bool:
    """Whether the host has finished writing this checkpoint."""
    return (folder / GUARD).exists()


def damage(folder: Path) -> str | None:
    """The first file of a checkpoint that is missing or cut off, with what is wrong; None if there is none.

    Reads no weights, so it takes no time whatever their size, and does not see a file that is whole in length and wrong
    in content.
    """
    manifest = folder / MANIFEST
    if manifest.exists() and _problem(manifest) is None:
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        expected = [manifest, *(folder / name for name in names)]
    else:
        expected = sorted(path for path in folder.rglob("*") if path.is_file())
    found = next((f"{file} {problem}" for file in expected if (problem := _problem(file))), None)
    sharded = sorted({file.parent for file in expected if is_part(file)})
    return found or next((problem for parts in sharded if (problem := damage_of_shards(parts))), None)


def _problem(file: Path) -> str | None:
    if file.suffix not in {".safetensors", ".json"} | _TORCH_FILES:
        return None
    if not file.exists():
        return "is missing"
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                return None
        except SafetensorError as error:
            return f"is damaged ({error})"
    if file.suffix == ".json":
        try:
            return _lacking(file.name, json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            return f"is damaged ({error})"
    with file.open("rb") as content:
        begins_as_pickle = content.read(1) == b"\x80"
    # torch writes zip archives, whose list of contents stands at the end.
    return None if begins_as_pickle or zipfile.is_zipfile(file) else "is damaged (it is cut off or not torch's)"


def _lacking(name: str, content: Any) -> str | None:
    if name == STATE and not (isinstance(content, dict) and isinstance(content.get("global_step"), int)):
        return "is damaged (it has no global_step)"
    names = content.get("files") if name == MANIFEST and isinstance(content, dict) else None
    if name == MANIFEST and not (isinstance(names, list) and all(isinstance(file, str) for file in names)):
        return "is damaged (it has no list of files)"
    return None


def read_tensors(file: Path, way_out: str = "resume from another checkpoint") -> Mapping[str, Any]:
    """What torch has saved in a file of a checkpoint, on the CPU. Args: way_out: of the error.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if not file.exists():
        raise CheckpointError(file, "is missing", way_out)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(file, f"is damaged ({reason})", way_out) from error
