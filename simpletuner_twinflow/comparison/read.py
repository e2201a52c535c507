"""A run out of its folders."""

from collections.abc import Sequence
from pathlib import Path

from simpletuner_twinflow.comparison.find import Found, find_runs, short_names
from simpletuner_twinflow.comparison.local_tracker import METRICS, read_manifest, read_metrics
from simpletuner_twinflow.comparison.output_folder import read_config, validation_pictures
from simpletuner_twinflow.comparison.quality_files import (
    FILE,
    FOLDER,
    SHEET_LABEL,
    contact_sheets,
    read_history,
    read_quality,
)
from simpletuner_twinflow.comparison.run import QUALITY, Measured, Picture, Run, measured
from simpletuner_twinflow.comparison.series import Log, Series
from simpletuner_twinflow.comparison.wandb_run import read_wandb


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs that these paths lead to, each with a name of its own.

    Raises:
        TwinFlowConfigError: Paths that lead to no run, all of them.
        TwinFlowError: W&B's files cannot be read here at all.
    """
    found = find_runs(paths)
    return [read_run(one, name) for one, name in zip(found, short_names([one.given for one in found]), strict=True)]


def read_run(found: Found, name: str) -> Run:
    """One run. The host's tracker goes before W&B, and the run's own files go before both.

    Raises:
        TwinFlowError: W&B's files cannot be read here at all.
    """
    run = Run(name, [path for path in (found.output, *found.wandb) if path is not None], notes=[*found.notes])
    logged: Log | None = None
    if found.output is not None:
        run.config, run.config_kind, file = read_config(found.output)
        if file is not None:
            run.sources["configuration"] = f"{run.config_kind}, {_short(file, found.output)}"
        if (found.output / METRICS).is_file():
            logged = Log()
            run.notes += read_metrics(found.output, logged)
            run.sources["losses and time"] = METRICS
            if read_manifest(found.output).get("status") == "running":
                run.notes.append("The host's tracker has no end: the run goes on or was killed.")
    if found.wandb:
        _add_wandb(run, found.wandb, logged)
    elif logged is not None:
        _add_log(run, logged)
    if found.output is not None:
        add_files(run, found.output)
    if run.pictures:
        run.sources["pictures"] = ", ".join(dict.fromkeys(_kind(picture) for picture in run.pictures))
    return run


def _add_wandb(run: Run, folders: list[Path], logged: Log | None) -> None:
    log, where = Log(), ", ".join(folder.name for folder in folders)
    for folder in folders:
        log.begin()
        config, pictures, notes = read_wandb(folder, log)
        run.pictures += pictures
        run.notes += notes
        if config:
            run.config, run.config_kind = run.config | config, "W&B's configuration"
            run.sources["configuration"] = f"W&B, {where}"
    if logged is None:
        run.sources["losses and time"] = f"W&B, {where}"
    _add_log(run, logged or log)


def _add_log(run: Run, log: Log) -> None:
    series = log.series()
    for name in [name for name in series if name.startswith(QUALITY)]:
        curve = series.pop(name)
        if (key := measured(name.removeprefix(QUALITY))) is not None and len(curve):
            run.quality[key] = curve
    run.series = {name: one for name, one in series.items() if len(one)}
    if run.quality:
        run.sources["quality"] = run.sources["losses and time"]
    if log.processes > 1:
        times = log.processes - 1
        run.notes.append(f"Resumed {times} time{'s' * (times > 1)}; the pause before it is not in its time.")
    for first, last in log.repeated():
        run.notes.append(f"Steps {first} to {last} were lost and trained again: the later ones are shown.")


def add_files(run: Run, output: Path) -> None:
    """Add what lies in its output folder; of pictures that a tracker has, those of this run that do not lie there."""
    quality, notes = read_quality(output)
    run.notes += notes
    if quality:
        merged: dict[Measured, Series] = run.quality | quality
        run.quality = merged
        run.sources["quality"] = f"{FOLDER}/{FILE}"
    own = [*contact_sheets(output), *validation_pictures(output)]
    have = {(picture.label, picture.step) for picture in own}
    history = read_history(output, [])
    logged = (one for one in run.pictures if (one.label, one.step) not in have)
    run.pictures = [*own, *(one for one in logged if one.label != SHEET_LABEL or history.has_sheet(one.step))]


def _kind(picture: Picture) -> str:
    return "W&B's media" if "media" in picture.path.parts else f"{picture.path.parent.name}/"


def _short(file: Path, output: Path) -> str:
    return str(file.relative_to(output)) if file.is_relative_to(output) else str(file.relative_to(output.parent))
