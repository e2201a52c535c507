"""What the host leaves in a run's `output_dir` beside its tracker's files: configuration and validation pictures."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletuner_twinflow.comparison.local_tracker import MANIFEST, METRICS, json_lines, read_manifest
from simpletuner_twinflow.comparison.quality_files import FILE, FOLDER, RUN_FILE
from simpletuner_twinflow.comparison.run import Picture

PUBLISHED = ("simpletuner_config.json", "pipeline/simpletuner_config.json")  # by a LoRA's run, by a full fine-tune's
GIVEN = ("config/config.json", "config/config.toml", "config.json", "config.toml")  # in the folder above
MEDIA = "validation_media.jsonl"  # of the host's own tracker
VALIDATION = re.compile(
    r"step_(?P<step>\d+)_(?P<label>.*)_(?P<index>\d+)_(?P<size>\d+x\d+|unknown)\.(png|jpe?g|webp)", re.I
)
SIGNS = (
    METRICS,
    MANIFEST,
    f"{FOLDER}/{FILE}",
    ".wandb_run_id",
    "validation_images",
    *PUBLISHED,
    "checkpoint-*",
    "pytorch_lora_weights.safetensors",
)


def is_output(folder: Path) -> bool:
    """Whether the host has written a run into this folder."""
    return any(next(folder.glob(sign), None) is not None for sign in SIGNS)


def read_config(output: Path) -> tuple[dict[str, Any], str, Path | None]:
    """The fullest configuration there is, its kind, and its file.

    Args:
        output: the run's `output_dir`; of a run that exported nothing the config file in the folder above is read.

    Returns:
        What a TwinFlow run recorded of itself is among them. The kind is "exported configuration" (every
        key), "config file" (those that the user gave), or "tracker's summary" (some); "" where there is none.
    """
    own = _read(output / FOLDER / RUN_FILE)
    for name in PUBLISHED:
        if found := _read(output / name):
            return own | found, "exported configuration", output / name
    for name in GIVEN:
        path = output.parent / name
        found = _read(path)
        if found and _leads_to(found, output):
            return own | {key.lstrip("-"): value for key, value in found.items()}, "config file", path
    some = read_manifest(output).get("config")
    return (own | some, "tracker's summary", output / MANIFEST) if isinstance(some, dict) else (own, "", None)


def validation_pictures(output: Path) -> Iterator[Picture]:
    """The validation's pictures, labelled as the host labels them on W&B. Args: output: the run's `output_dir`."""
    recorded, ended = _recorded(output)
    yield from recorded.values()
    for path in sorted((output / "validation_images").glob("step_*")):
        match = VALIDATION.fullmatch(path.name)
        if match and path.name not in recorded and path.name not in ended:
            yield Picture(_label(match["label"], match["size"], int(match["index"])), int(match["step"]), path)


def _recorded(output: Path) -> tuple[dict[str, Picture], set[str]]:
    """The pictures that the host's tracker knows by the files' names, and names of what the run no longer has.

    A step that is drawn again ends what was drawn at it and after it: an earlier run in the same folder drew that, or
    one that went on from before it.
    """
    found: dict[str, Picture] = {}
    ended: set[str] = set()
    last = 0
    for record in json_lines(output / MEDIA, []):
        path, step = record.get("path"), record.get("step")
        if record.get("type") != "image" or not isinstance(path, str) or not isinstance(step, int):
            continue
        whole = output / path
        if step < last:
            again = [name for name, picture in found.items() if picture.step >= step]
            ended.update(again)
            for name in again:
                del found[name]
        last = step
        ours = whole.parent.name == FOLDER  # a contact sheet, of this run or of an earlier one; `contact_sheets` knows
        if whole.is_file() and whole.resolve().is_relative_to(output.resolve()) and not ours:
            found[whole.name] = Picture(
                _label(record.get("label"), record.get("resolution"), record.get("index")), step, whole
            )
    return found, ended


def output_dir_of(folder: Path) -> Path | None:
    """The `output_dir` that the config file in a run's folder names, if it is there."""
    for name in GIVEN:
        given = _read(folder / name)
        output = given.get("output_dir", given.get("--output_dir"))
        if isinstance(output, str) and (folder / output).is_dir():
            return folder / output
    return None


def _label(label: Any, size: Any, index: Any) -> str:
    """The host logs the first picture of a size alone, or the last, under this label."""
    return f"{label} - {size}" + (f" ({index + 1})" if isinstance(index, int) and index else "")


def _leads_to(config: dict[str, Any], output: Path) -> bool:
    named = config.get("output_dir", config.get("--output_dir"))
    return isinstance(named, str) and Path(named).name == output.name


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
