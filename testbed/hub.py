"""A cache of the Hugging Face hub with tiny models in it, for what the host takes from there and nowhere else."""

import shutil
from collections.abc import Iterable
from pathlib import Path

REVISION = "0" * 40
LLAMA = "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
IDEOGRAM = "ideogram-ai/ideogram-4-fp8"
FLUX2 = "black-forest-labs/FLUX.2-dev"
# Pipeline -> what the host takes from the hub in the place of its parts: repository and the parts in it.
FROM_HUB = {
    "auraflow": ("terminusresearch/auraflow-v0.3", ("text_encoder", "tokenizer")),
    "hidream": (LLAMA, ("text_encoder_4", "tokenizer_4")),
    "zlab_i1": (FLUX2, ("scheduler",)),
    "ideogram": (IDEOGRAM, ("text_encoder", "tokenizer", "vae", "fused/transformer")),
}

# The same, of repositories that hold the parts' files without folders.
FLAT_FROM_HUB = {"zlab_i1": ("google/t5gemma-2b-2b-ul2-it", ("text_encoder", "tokenizer"))}


def fill(home: Path, name: str, pipeline: Path) -> None:
    """Put into the cache what the host takes from the hub for this pipeline, if anything.

    Args: home: see `put`. name: of `testbed.pipelines.BUILDERS`. pipeline: its folder.
    """
    if name in FROM_HUB:
        repository, parts = FROM_HUB[name]
        put(home, repository, [pipeline / part for part in parts])
    if name == "ideogram":  # whose repository has had two layouts: SimpleTuner's is that of one, diffusers' the other
        put(stock_home(home), IDEOGRAM, [pipeline], flat=True)
    if name in FLAT_FROM_HUB:
        repository, parts = FLAT_FROM_HUB[name]
        put(home, repository, [pipeline / part for part in parts], flat=True)


def stock_home(home: Path) -> Path:
    """The home that stock diffusers finds a repository in where SimpleTuner's reading of it is another."""
    return home.with_name(f"{home.name}-stock")


def put(home: Path, repository: str, folders: Iterable[Path], *, flat: bool = False) -> None:
    """Put folders into a repository of the cache.

    Args:
        home: the variable HF_HOME of who is to find them.
        repository: its name.
        folders: the first one's `config.json` goes into all that have none, since a cache knows of no missing files.
        flat: whether their files lie in the repository itself.
    """
    first, *_ = folders = list(folders)
    cached = home / "hub" / f"models--{repository.replace('/', '--')}"
    for folder in folders:
        place = cached / "snapshots" / REVISION
        copy = shutil.copytree(folder, place if flat else place / folder.name, dirs_exist_ok=True)
        if (first / "config.json").exists() and not (copy / "config.json").exists():
            shutil.copy(first / "config.json", copy)
    (cached / "refs").mkdir(exist_ok=True)
    (cached / "refs/main").write_text(REVISION, encoding="utf-8")
