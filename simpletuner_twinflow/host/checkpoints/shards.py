"""A folder of shards as `torch.distributed.checkpoint` writes it: whether they are all there and whole."""

import pickle
from pathlib import Path

INDEX = ".metadata"  # torch's pickled list of what lies where in which shard, without which none can be read
SHARD = ".distcp"  # suffix of a shard
# What unpickling bytes that were cut off has been seen to raise, or may by Python's documentation.
_BROKEN = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError)


def is_part(file: Path) -> bool:
    """Whether a file is a shard, or the index of some."""
    return file.suffix == SHARD or file.name == INDEX


def damage_of_shards(folder: Path) -> str | None:
    """The first file of the folder that is missing or cut off, with what is wrong; None if there is none.

    Reads the index alone, which says how far each shard reaches.
    """
    from torch.distributed.checkpoint import FileSystemReader  # takes seconds, for which `doctor` would wait

    index = folder / INDEX
    if not index.exists():
        return f"{index} is missing"
    try:
        places = FileSystemReader(folder).read_metadata().storage_data.values()
        ends: dict[str, int] = {}
        for place in places:
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
    except _BROKEN as error:
        return f"{index} is damaged ({error})"
    for name, end in sorted(ends.items()):
        if not (folder / name).exists():
            return f"{folder / name} is missing"
        if (size := (folder / name).stat().st_size) < end:
            return f"{folder / name} is damaged (it is cut off: {size} of {end} bytes)"
    return None
