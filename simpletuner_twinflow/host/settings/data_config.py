"""The data config of a run, a JSON list of datasets, as far as TwinFlow reads it."""

import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from simpletuner_twinflow.declaration import shown

REGULARISATION = ("is_regularisation_data", "is_regularization_data")  # the host takes both
MEGAPIXEL = 1e6  # pixels, as the host's resolution_type "area" counts them
TRAINED = ("image", "video", "audio")  # kinds of datasets, the first where none is named
NO_PICTURES = (".txt", ".json")  # captions, and what the host keeps of a folder; any other file may be a picture


class DataConfigError(ValueError):
    """The file does not hold what it must, in words that begin with the key."""


def datasets_of(path: Any) -> list[dict[str, Any]]:
    """The datasets that are not disabled; none where there is no such file, for which the host has its own message.

    Raises:
        DataConfigError: It is no JSON list of objects.
    """
    if not isinstance(path, str) or not os.path.isfile(path):
        return []
    where = f"data_backend_config is {shown(path)}"
    try:
        datasets = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        raise DataConfigError(f"{where}, which cannot be read as JSON: {error}. Mend the file.") from error
    if not isinstance(datasets, list) or not all(isinstance(dataset, dict) for dataset in datasets):
        kind = _kind(datasets)
        raise DataConfigError(
            f"{where}, which must hold a JSON list of objects, one a dataset; found {kind}. Mend the file."
        )
    return [dataset for dataset in datasets if not (dataset.get("disabled") or dataset.get("disable"))]


def only_regularisation(datasets: list[dict[str, Any]]) -> bool:
    """Whether all of these datasets that are trained on are for regularisation, and there is one."""
    trained = _trained(datasets)
    return bool(trained) and all(any(dataset.get(key) for key in REGULARISATION) for dataset in trained)


def has_regularisation(path: Any) -> bool:
    """Whether a dataset is for regularisation: the host holds the network at its parent there.

    Raises:
        DataConfigError: As of `datasets_of`.
    """
    return any(dataset.get(key) for dataset in datasets_of(path) for key in REGULARISATION)


def is_one_picture(path: Any) -> bool:
    """Whether all that is trained on is one picture in a folder of this machine; False where that cannot be told.

    Args: path: of the data config.
    """
    try:
        [dataset] = _trained(datasets_of(path))
    except ValueError:  # several, none, or no data config, which is said where the datasets are checked
        return False
    folder = dataset.get("instance_data_dir")
    if dataset.get("type") != "local" or str(dataset.get("dataset_type", "image")) != "image" or not folder:
        return False
    files = (name for _, _, names in os.walk(str(folder)) for name in names if not name.endswith(NO_PICTURES))
    return len([*islice(files, 2)]) == 1


class Sample(NamedTuple):
    """The largest sample of a run."""

    side: float  # pixels of a square as large as its picture
    frames: int | None  # of a video; None of a picture


def largest_sample(path: Any, defaults: Mapping[str, Any]) -> Sample | None:
    """The largest sample of the datasets that are trained on; None where there are none, or a size is no number.

    Args: path: of the data config; defaults: the host's own keys `resolution` and `resolution_type`.
    """
    found = []
    try:
        for dataset in _trained(datasets_of(path)):
            given = {key: dataset.get(key, defaults.get(key)) for key in ("resolution", "resolution_type")}
            number = float(given["resolution"] or 1.0)
            megapixels = str(given["resolution_type"] or "area") == "area"
            frames = (dataset.get("video") or {}).get("num_frames")
            side = (number * MEGAPIXEL) ** 0.5 if megapixels else number
            found.append(Sample(side, None if frames is None else int(frames)))
    except (DataConfigError, TypeError, ValueError, AttributeError):  # said where the datasets are checked
        return None
    return max(found, key=lambda sample: (sample.frames or 1) * sample.side**2, default=None)


def _trained(datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are trained on."""
    return [dataset for dataset in datasets if str(dataset.get("dataset_type", "image")) in TRAINED]


def _kind(value: Any) -> str:
    if isinstance(value, list):
        strange = next(item for item in value if not isinstance(item, dict))
        return f"{shown(strange)} in the list"
    return "an object" if isinstance(value, dict) else shown(value)
