"""What a tiny model is trained on: pictures, films or songs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.clips import write_clips
from testbed.digits import write_digits
from testbed.recipes import ANIMATES, SINGS
from testbed.tones import write_tones
from testbed.trainer import datasets, film_datasets, sound_datasets

Data = Callable[[Path], list[dict[str, Any]]]


def samples_of(name: str, root: Path) -> tuple[Path, Data]:
    """Write a family's samples into a folder below `root`. Returns: the folder, and what gives the data config for it.

    Args: name: of `testbed.recipes.FAMILIES`.
    """
    if name in SINGS:
        folder = root / "tones" / name  # its own: the host writes there what it knows of them
        write_tones(folder)
        return folder, sound_datasets
    if name in ANIMATES:
        write_clips(root / "clips")
        return root / "clips", film_datasets
    write_digits(root / "digits", limit=16)
    return root / "digits", datasets
