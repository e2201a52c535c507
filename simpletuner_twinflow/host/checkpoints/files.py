"""Whether a checkpoint's files are all there and whole, told from the outside before anything is loaded of them."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from simpletuner_twinflow.errors import TwinFlowError

# Our files, in a folder and under a name in which no loader looks for an adapter.
STATE_FILE = Path("twinflow/state.json")
TIME_CONDITIONING_FILE = Path("twinflow/time_conditioning.pt")

STATE = "training_state.json"  # the host's; without its step a run would begin at 0 with a later step's weights
GUARD, MANIFEST = ".guard", "checkpoint_manifest.json"  # the host's: written last of all, and the list of all others
_TORCH_FILES = {".bin", ".pt", ".pth", ".pkl"}


def is_finished(folder: Path) -> bool:
    """Whether the host has finished writing this checkpoint."""
    return (folder / GUARD).exists()


def damage(folder: Path) -> str | None:
    """The first file of a checkpoint that is missing or cut off, with what is wrong; None if there is none.

    Reads no weights, so it takes no time whatever their size; a file that is whole in length and wrong in content is
    not seen.
    """
    for file in _expected(folder):
        if problem := _problem(file):
            return f"{file} {problem}"
    return None


def _expected(folder: Path) -> Iterable[Path]:
    manifest = folder / MANIFEST
    if manifest.exists() and _problem(manifest) is None:
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return [manifest, *(folder / name for name in names)]
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            return f"is damaged ({error})"
        return _lacking(file.name, content)
    with file.open("rb") as content:
        begins_as_pickle = content.read(1) == b"\x80"
    # torch writes zip archives, whose list of contents stands at the end.
    return None if begins_as_pickle or zipfile.is_zipfile(file) else "is damaged (it is cut off or not torch's)"


def _lacking(name: str, content: Any) -> str | None:
    """What the content of one of the host's files lacks."""
    if name == STATE and not (isinstance(content, dict) and isinstance(content.get("global_step"), int)):
        return "is damaged (it has no global_step)"
    names = content.get("files") if name == MANIFEST and isinstance(content, dict) else None
    if name == MANIFEST and not (isinstance(names, list) and all(isinstance(file, str) for file in names)):
        return "is damaged (it has no list of files)"
    return None


def read_tensors(file: Path, way_out: str = "resume from another checkpoint") -> Mapping[str, Any]:
    """What torch has saved in a file of a checkpoint, on the CPU. Args: way_out: said in an error.

    Raises:
        TwinFlowError: it is missing or damaged.
    """
    if not file.exists():
        raise TwinFlowError(f"{file} is missing: {way_out}.")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TwinFlowError(f"{file} is damaged ({reason}): {way_out}.") from error
