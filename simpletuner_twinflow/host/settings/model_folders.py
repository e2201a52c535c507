"""Folders of models that a configuration names and that are not on this machine."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import is_set

# Each the name of a folder, or of a repository of the model hub. A ControlNet's is not read: TwinFlow trains none.
MODEL_KEYS = ("pretrained_model_name_or_path", "pretrained_vae_model_name_or_path")
TRANSFORMER_KEY, UNET_KEY = "pretrained_transformer_model_name_or_path", "pretrained_unet_model_name_or_path"
UNET_FAMILIES = ("kolors", "sd1x", "sdxl")  # the host reads one of the two keys, by the family's network
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
ONE_FILE = (".safetensors", ".gguf")  # also inside a repository, or at an address


def model_folders(given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Lines on the folders that are not there: those that no hub can have, and those that it may have.

    SimpleTuner hands the name on to diffusers, which takes what is no folder for a repository, and does not expand ~.

    Args: given: the configuration as its user wrote it, keys without dashes.
    """
    nowhere, at_hub = [], []
    for key in (*MODEL_KEYS, UNET_KEY if given.get("model_family") in UNET_FAMILIES else TRANSFORMER_KEY):
        name = given.get(key)
        # os.path, since a Path's `exists` raises for a name that is too long.
        if not is_set(name) or not isinstance(name, str) or os.path.exists(name) or name.endswith(ONE_FILE):
            continue
        looked = "" if Path(name).is_absolute() else f" (looked in {Path.cwd()})"
        absent = f"{key} is {shown(name)}: no such folder here{looked}"
        if REPOSITORY.fullmatch(name) and not name.startswith((".", "~")):
            at_hub.append(f"{absent}; SimpleTuner will look for it on the model hub.")
            continue
        home = " SimpleTuner does not expand ~." if name.startswith("~") else ""
        nowhere.append(
            f'{absent}, and no repository of the model hub, whose names are "owner/name".{home} Mend the path, or '
            "start in the folder that it is relative to."
        )
    return nowhere, at_hub
