"""Which runs the paths that a user gave lead to."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simpletuner_twinflow.comparison.output_folder import is_output, output_dir_of
from simpletuner_twinflow.comparison.wandb_run import FOLDER, began, run_id, wandb_file
from simpletuner_twinflow.errors import TwinFlowConfigError

DULL = {"output", "wandb", "files"}  # names of folders that say nothing of a run


@dataclass
class Found:
    """The folders of one run."""

    given: Path
    output: Path | None = None
    wandb: list[Path] = field(default_factory=list)
    """In the order in which they were begun."""
    notes: list[str] = field(default_factory=list)
    """What is to be known of how they were found, a sentence each."""

    @property
    def key(self) -> str:
        """The same for the same run: W&B's id, which the host keeps in the output folder, or else that folder."""
        if self.wandb:
            return run_id(self.wandb[0])
        assert self.output is not None
        return wandb_id(self.output) or str(self.output.resolve())

    def joins(self, other: "Found") -> bool:
        """Whether both are one run: the copy of an output folder has its id, and is a branch of it."""
        if self.key != other.key:
            return False
        return self.output is None or other.output is None or self.output.resolve() == other.output.resolve()


def find_runs(paths: Sequence[Path]) -> list[Found]:
    """The runs in the order of their paths, each once.

    Args:
        paths: each an output folder, a W&B run's folder (or the file in it), or a folder that holds these.

    Raises:
        TwinFlowConfigError: All paths that lead to no run, with what was looked for.
    """
    runs: list[Found] = []
    problems = []
    for path in paths:
        try:
            found = list(_runs_at(path))
            if not found:
                problems.append(_why_not(path))
        except OSError as error:
            found = []
            problems.append(f"{path}: {error.strerror or error}.")
        for one in found:
            same = next((each for each in runs if each.joins(one)), None)
            if same is None:
                runs.append(one)
            else:
                same.output = same.output or one.output
                same.wandb = sorted({*same.wandb, *one.wandb}, key=began)
    if problems:
        raise TwinFlowConfigError(*problems)
    _note_branches(runs)
    return runs


def _note_branches(runs: Sequence[Found]) -> None:
    for run in runs:
        if others := [str(each.output) for each in runs if each is not run and each.key == run.key]:
            run.notes.append(f"Has the W&B id of {', '.join(others)}: a copy; what W&B alone kept may be of either.")


def wandb_id(output: Path) -> str | None:
    """The id of the W&B run that the host logged to from this output folder."""
    try:
        return (output / ".wandb_run_id").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _runs_at(path: Path) -> Iterable[Found]:
    path = path.parent if path.suffix == ".wandb" and path.is_file() else path
    if not path.is_dir():
        return
    if wandb_file(path):
        yield Found(path, wandb=[path])
        return
    if is_output(path):
        found = Found(path, output=path)
        if own := wandb_id(path):
            found.wandb = [each for root in (path, path.parent) for each in _wandb_folders(root) if run_id(each) == own]
        yield found
        return
    inside = dict.fromkeys(each for each in (output_dir_of(path), *sorted(path.iterdir())) if each is not None)
    outputs = {each.resolve(): each for each in inside if each.is_dir() and is_output(each)}
    taken = set()
    for output in outputs.values():
        for found in _runs_at(output):
            taken.update(found.wandb)
            yield Found(path if len(outputs) == 1 else output, found.output, found.wandb)
    by_id: dict[str, list[Path]] = {}
    for each in _wandb_folders(path):
        if each not in taken:
            by_id.setdefault(run_id(each), []).append(each)
    for folders in by_id.values():
        yield Found(path if len(by_id) == 1 and not outputs else folders[0], wandb=folders)


def _wandb_folders(root: Path) -> list[Path]:
    """W&B's runs in a folder, or in the folder `wandb` in it, the first begun first."""
    inside = [*root.glob("*run-*"), *root.glob("wandb/*run-*")]
    found = [each for each in inside if FOLDER.fullmatch(each.name) and not each.is_symlink() and wandb_file(each)]
    return sorted(found, key=began)


def _why_not(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such file or folder."
    if not path.is_dir():
        return f"{path}: not a folder; give a run's output folder, or its folder in wandb/."
    return (
        f"{path}: no run in it. Looked for an output folder (training_metrics.jsonl, validation_images, checkpoint-*, "
        "...), for wandb/offline-run-*/run-*.wandb, and for a folder that holds either."
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each path, unlike all others: its last folder that says something, and more where needed.

    Args:
        paths: of runs; W&B runs of one folder are told apart by their ids, the same path twice by a number.
    """
    parts = [_telling(path) for path in paths]
    names = []
    for path, own in zip(paths, parts, strict=True):
        depth = next((n for n in range(1, len(own)) if _ends(parts, own[-n:]) == parts.count(own)), len(own))
        name = "/".join(own[-depth:])
        match = FOLDER.fullmatch(path.name)
        names.append(f"{name} {match['id'][:6]}" if match and parts.count(own) > 1 else name)
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _ends(all_parts: Sequence[list[str]], end: list[str]) -> int:
    return sum(parts[-len(end) :] == end for parts in all_parts)


def _telling(path: Path) -> list[str]:
    whole = Path(os.path.abspath(path))
    whole = whole.parent if FOLDER.fullmatch(whole.name) else whole  # W&B's own names say nothing to a person
    return [part for part in whole.parts if part not in DULL and part != whole.anchor] or [str(path)]
