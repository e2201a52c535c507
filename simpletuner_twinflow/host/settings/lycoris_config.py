"""What a run's LyCORIS configuration, a JSON file of its own, must not ask for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpletuner_twinflow.declaration import shown
from simpletuner_twinflow.host.settings.conflict_rows import is_positive, is_set

DEFAULT_FILE = "config/lycoris_config.json"  # the host's
DROPOUTS = ("dropout", "rank_dropout", "module_dropout")
KEPT = ("dora_wd", "weight_decompose", "rescaled")  # what multiplier 0 does not switch off


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
    parts = [*_objects(content)]  # a preset has options for each kind of layer
    if any(_algorithm(part) == "tlora" for part in parts):
        yield f'{where}, and algo in it "tlora": its rank depends on the time. Way out: set algo to "lokr" or "lora".'
    for key in DROPOUTS:
        if is_positive(value := content.get(key)):
            yield (
                f"{where}, and {key} in it {shown(value)}: dropout puts noise into TwinFlow's targets. Way out: set "
                f"{key} to 0."
            )
    if not needs_base:
        return
    kept = [key for key in KEPT if any(is_set(part.get(key)) for part in parts)]
    # Of a part without an algorithm of its own the whole configuration's.
    if any((_algorithm(part) or _algorithm(content)) == "dylora" and is_set(part.get("bypass_mode")) for part in parts):
        kept.append("bypass_mode")
    for key in kept:
        yield (
            f"{where}, with {key}: LyCORIS cannot switch such a network off, and the base is needed beside it, for "
            f'guidance or a regularisation set. Way out: set {key} to false, or twinflow_guidance_reference to "ema".'
        )


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    """This object and all that are in it."""
    if isinstance(content, dict):
        yield content
        for part in content.values():
            yield from _objects(part)


def _algorithm(part: dict[str, Any]) -> str:
    return str(part.get("algo") or "").lower()
