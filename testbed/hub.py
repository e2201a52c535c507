"""A cache of the Hugging Face hub with tiny models in it, for what the host takes from there and nowhere else."""

import shutil
from collections.abc import Iterable
from pathlib import Path

REVISION = "0" * 40
LLAMA = "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
FLUX2 = "black-forest-labs/FLUX.2-dev"
# Pipeline -> what the host takes from the hub in the place of its parts: repository and the parts in it.
FROM_HUB = {
    "auraflow": ("terminusresearch/auraflow-v0.3", ("text_encoder", "tokenizer")),
    "hidream": (LLAMA, ("text_encoder_4", "tokenizer_4")),
    "zlab_i1": (FLUX2, ("scheduler",)),
}


def put(home: Path, repository: str, folders: Iterable[Path]) -> None:
    """Put folders into a repository of the cache.

    Args:
        home: the variable HF_HOME of who is to find them.
        repository: its name.
        folders: the first one's `config.json` goes into all that have none, since a cache knows of no missing files.
    """
    first, *_ = folders = list(folders)
    cached = home / "hub" / f"models--{repository.replace('/', '--')}"
    for folder in folders:
        copy = shutil.copytree(folder, cached / "snapshots" / REVISION / folder.name, dirs_exist_ok=True)
        if not (copy / "config.json").exists():
            shutil.copy(first / "config.json", copy)
    (cached / "refs").mkdir(exist_ok=True)
    (cached / "refs/main").write_text(REVISION, encoding="utf-8")
