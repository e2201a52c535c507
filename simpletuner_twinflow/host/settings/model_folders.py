"""Folders of models that a configuration names and that are not on this machine."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import UNET_FAMILIES, is_set

# Each the name of a folder, or of a repository of the model hub. A ControlNet's is not read: TwinFlow trains none.
MODEL_KEYS = ("pretrained_model_name_or_path", "pretrained_vae_model_name_or_path")
TRANSFORMER_KEY, UNET_KEY = "pretrained_transformer_model_name_or_path", "pretrained_unet_model_name_or_path"  # of one
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
ONE_FILE = (".safetensors", ".gguf")  # also inside a repository, or at an address
# Families whose network the host loads by its common `load_model` and diffusers' own `from_pretrained`, and from no
# other place than the key says. The others have loaders or layouts of their own.
FROM_FOLDERS = (
    "auraflow", "boogu_image", "chroma", "ernie", "flux", "flux2", "hidream", "kandinsky5_image", "kandinsky5_video",
    "kolors", "krea2", "longcat_image", "ltxvideo", "lumina2", "omnigen", "pixart", "sana", "sd1x", "sd3", "sdxl",
)  # fmt: skip
OWN_FILES = ("krea2",)  # of these, with a reader of its own for a single file; diffusers has one for U-Nets
CONFIG = "config.json"  # without which diffusers loads no network from a folder


def model_folders(given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Lines on what is not there or holds no model: what no hub can have, and what it may have.

    SimpleTuner hands the name on to diffusers, which takes what is no folder for a repository, and does not expand ~.

    Args: given: the configuration as its user wrote it, keys without dashes.
    """
    nowhere, at_hub = [*_unloadable(given)], []
    for key in (*MODEL_KEYS, _network_key(given)):
        name = given.get(key)
        # os.path, since a Path's `exists` raises for a name that is too long.
        if not is_set(name) or not isinstance(name, str) or os.path.exists(name) or name.lower().endswith(ONE_FILE):
            continue
        absent = f"{key} is {shown(name)}: no such folder here{_looked(name)}"
        if REPOSITORY.fullmatch(name) and not name.startswith((".", "~")):
            at_hub.append(f"{absent}; SimpleTuner will look for it on the model hub.")
            continue
        home = " SimpleTuner does not expand ~." if name.startswith("~") else ""
        nowhere.append(
            f'{absent}, and no repository of the model hub, whose names are "owner/name".{home} Mend the path, or '
            "start in the folder that it is relative to."
        )
    return nowhere, at_hub


def _network_key(given: Mapping[str, Any]) -> str:
    return UNET_KEY if given.get("model_family") in UNET_FAMILIES else TRANSFORMER_KEY


def _unloadable(given: Mapping[str, Any]) -> Iterator[str]:
    """A line where what the network would be loaded from is here, and nothing that diffusers loads one from."""
    if given.get("model_family") not in FROM_FOLDERS:
        return
    own = _network_key(given)
    key = own if is_set(given.get(own)) else MODEL_KEYS[0]
    name = given.get(key)
    if not is_set(name) or not isinstance(name, str):
        return
    one_file = name.lower().endswith(ONE_FILE)
    if one_file and given["model_family"] in OWN_FILES:
        return
    if (one_file or os.path.isfile(name)) and given["model_family"] not in (*UNET_FAMILIES, *OWN_FILES):
        yield (
            f"{key} is {shown(name)}: a file, and SimpleTuner loads no network of {given['model_family']} from one: "
            "diffusers, which it leaves that to, does not know its class of the network. Name the folder of a model in "
            "diffusers' layout."
        )
    elif one_file:
        if not os.path.isfile(name) and "://" not in name:
            yield (
                f"{key} is {shown(name)}: no such file here{_looked(name)}, and no address of one, which must begin "
                "with https://. Mend the path, or start in the folder that it is relative to."
            )
    elif os.path.isfile(name):
        yield (
            f"{key} is {shown(name)}: a file, and no {' or '.join(ONE_FILE)}, which alone SimpleTuner loads as one. "
            "Name the folder of a model in diffusers' layout, or such a file."
        )
    elif os.path.isdir(name) and not any(map(os.path.isfile, _configs(Path(name), key, given))):
        lacking = f"it has no file {_folder(given)}/{CONFIG}"
        if key == own:
            lacking = f"neither it nor a folder in it has the file {CONFIG}"
        yield (
            f"{key} is {shown(name)}: the folder holds no network of the family, since {lacking}, by which diffusers "
            "loads one. Finish its download, or name the folder of a model."
        )


def _looked(name: str) -> str:
    return "" if Path(name).is_absolute() else f" (looked in {Path.cwd()})"


def _folder(given: Mapping[str, Any]) -> str:
    """Where in a model's folder its network lies."""
    return "unet" if _network_key(given) == UNET_KEY else "transformer"


def _configs(folder: Path, key: str, given: Mapping[str, Any]) -> Iterator[Path]:
    """Files of which one must be there. Args: key: that names the folder: of a network alone the user names a place."""
    if key == MODEL_KEYS[0]:
        yield folder / _folder(given) / CONFIG
        return
    yield from folder.glob(CONFIG)
    yield from folder.glob(f"*/{CONFIG}")
    yield folder / str(given.get(key.replace("model_name_or_path", "subfolder"))) / CONFIG
