"""What is known of a run's network from its files alone: the headers of its weights and its config."""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

NETWORKS = ("transformer", "unet")  # folders of a pipeline
HEADER = 8  # bytes that say how long a safetensors file's header is
TARGETS = "peft_lora_target_modules"
MODULE = re.compile(r"[\w.*|()^$-]+")
BLOCK = re.compile(r"(\w*(?:blocks|layers))\.(\d+)\.")
# Of the host's LoRA, where a family has no layers of its own and the user names none.
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


class Network(NamedTuple):
    """A denoiser's size."""

    parameters: int
    blocks: int  # the transformer blocks of all its lists; 1 of a U-Net
    width: int  # of a token; of a U-Net's first level
    patch: int  # latents of a side that make a token
    dual: bool  # whether blocks have a second attention, as SD3.5-medium's
    adapted: int  # inputs and outputs of the layers that a LoRA adapts, added up: its parameters for each rank


def network_of(config: Mapping[str, Any]) -> Network | None:
    """The run's network; None where its files are not on this machine or are damaged, of which the host speaks.

    Args: config: the host's keys.
    """
    folder = Path(str(config.get("pretrained_model_name_or_path") or ""))
    for name in NETWORKS:
        files = sorted((folder / name).glob("*.safetensors"))
        try:
            if files:
                shapes = {key: shape for file in files for key, shape in _shapes_in(file).items()}
                written = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
                return described(shapes, written, layers=_adapted_layers(config))
        except (ValueError, OSError, KeyError, TypeError):
            return None
    return None


def described(
    shapes: Mapping[str, list[int]], written: Mapping[str, Any], *, layers: tuple[str, ...] = ATTENTION
) -> Network:
    """A network's size from its tensors' shapes and its config.

    Args: shapes: by name; written: the class's arguments; layers: the last parts of the adapted layers' names.
    """
    unet = "block_out_channels" in written
    blocks = {match.groups() for name in shapes if (match := BLOCK.match(name))}
    ends = tuple(f".{layer}.weight" for layer in layers)
    adapted = sum(shape[0] + shape[1] for name, shape in shapes.items() if name.endswith(ends) and len(shape) > 1)
    return Network(
        parameters=sum(prod(shape) for shape in shapes.values()),
        blocks=1 if unet else len(blocks),
        width=int(written["block_out_channels"][0]) if unet else _width(written),
        patch=_last(written.get("patch_size")),
        dual=bool(written.get("dual_attention_layers")),
        adapted=adapted,
    )


def _width(written: Mapping[str, Any]) -> int:
    heads, each = written.get("num_attention_heads"), written.get("attention_head_dim")
    if heads and each:
        return int(heads) * int(each)
    return int(written.get("hidden_size") or written.get("dim") or 0)  # 0: not known


def _last(size: Any) -> int:
    """Of a patch's sizes, one or one an axis; 1 where there is none."""
    return int(size[-1] if isinstance(size, list | tuple) else size or 1)


def target_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the layers that a LoRA shall adapt, of a list or its text; none where the family's default is."""
    return tuple(name for name in MODULE.findall(str(config.get(TARGETS) or "")) if name != "None")


def _adapted_layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    return target_modules(config) or ATTENTION


def _shapes_in(file: Path) -> dict[str, list[int]]:
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(HEADER), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
