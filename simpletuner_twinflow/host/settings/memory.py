"""What a run keeps in memory, by part, foretold from the files of its model; nothing of them is loaded."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from simpletuner_twinflow.options import TwinFlowOptions

NETWORKS = ("transformer", "unet")  # folders of a pipeline
UNITS = {1: "B", 1e3: "kB", 1e6: "MB", 1e9: "GB"}
FLOAT32, BFLOAT16 = 4, 2  # bytes
HEADER = 8  # bytes that say how long a safetensors file's header is


def size(count: float) -> str:
    """A number of bytes as a person reads it."""
    unit = next((unit for unit in (1, 1e3, 1e6) if count < 1000 * unit), 1e9)
    return f"{count / unit:.3g} {UNITS[unit]}"


def memory(options: TwinFlowOptions, config: Any) -> str:
    """What a run keeps beyond plain training without EMA, as a part of a line; without activations.

    Args: options: settled; config: the host's.
    """
    trained = parameters_of(vars(config)) if config.model_type == "full" else None
    parts = []
    if config.use_ema:
        parts.append("an EMA as large as the trained weights" if trained is None else f"EMA {size(FLOAT32 * trained)}")
    if config.model_type == "full" and options.scale > 1 and options.guidance_reference == "base":
        dtype, device = options.guidance_base_dtype, options.guidance_base_device
        place = f"on the {'CPU' if device == 'cpu' else 'accelerator'}"
        if trained is None:
            kept = f"{'their own dtype' if dtype == 'auto' else dtype} {place}"
            parts.append(f"the base's first weights, once more, in {kept}")
        else:
            half = config.mixed_precision != "no" if dtype == "auto" else dtype != "float32"
            width = BFLOAT16 if half else FLOAT32
            parts.append(f"the base's first weights {size(width * trained)} {place}")
    if options.time_conditioning == "training_only":
        parts.append("time conditioning")
    return f"{', '.join(parts) or 'nothing'}, beyond plain training without EMA"


def parameters_of(config: Mapping[str, Any]) -> int | None:
    """The number of the network's parameters, from the headers of its files; None where they are not on this machine.

    Args: config: the host's keys.
    """
    folder = Path(str(config.get("pretrained_model_name_or_path") or ""))
    for name in NETWORKS:
        files = sorted((folder / name).glob("*.safetensors"))
        try:
            if files:
                return sum(_parameters_in(file) for file in files)
        except (ValueError, OSError, KeyError):  # of a damaged file, for which the host has its own message
            return None
    return None


def _parameters_in(file: Path) -> int:
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(HEADER), "little")))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
