"""What a run's LyCORIS configuration, a JSON file of its own, must not ask for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import is_positive, is_set

DROPOUTS = ("dropout", "rank_dropout", "module_dropout")


def lycoris_problems(path: Any, *, needs_base: bool) -> Iterator[str]:
    """A line on each entry that TwinFlow cannot train with.

    Args: path: the host's `lycoris_config`; needs_base: whether guidance has the frozen base for its reference.
    """
    if not isinstance(path, str) or not os.path.isfile(path):
        return  # the host has its own message for that
    where = f"lycoris_config is {shown(path)}"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        yield f"{where}, which cannot be read as JSON: {error}. Mend the file."
        return
    if not isinstance(content, dict):
        yield f"{where}, which must hold a JSON object. Mend the file."
        return
    if str(content.get("algo")).lower() == "tlora":
        yield f'{where}, and algo in it "tlora": its rank depends on the time. Way out: set algo to "lokr" or "lora".'
    for key in DROPOUTS:
        if is_positive(value := content.get(key)):
            yield (
                f"{where}, and {key} in it {shown(value)}: dropout puts noise into TwinFlow's targets. Way out: set "
                f"{key} to 0."
            )
    if not needs_base:
        return
    bypass = str(content.get("algo")).lower() == "dylora" and is_set(content.get("bypass_mode"))
    kept = "dora_wd" if _is_set_in(content, "dora_wd", "weight_decompose") else "bypass_mode" if bypass else None
    if kept is not None:
        yield (
            f"{where}, with {kept}: LyCORIS cannot switch such a network off, and the base is needed beside it, for "
            f'guidance or a regularisation set. Way out: set {kept} to false, or twinflow_guidance_reference to "ema".'
        )


def _is_set_in(content: Any, *keys: str) -> bool:
    """Whether one of the keys is set anywhere in this part of the file: a preset has options for each kind of layer."""
    if not isinstance(content, dict):
        return False
    return any(is_set(content.get(key)) for key in keys) or any(_is_set_in(part, *keys) for part in content.values())
