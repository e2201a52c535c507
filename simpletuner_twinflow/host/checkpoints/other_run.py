"""A whole checkpoint that does not fit the configuration: of another kind of training, or of another rank.

SimpleTuner takes any checkpoint that cannot be loaded for a damaged one, and with `delete_invalid_checkpoints` deletes
one after the other until none is left. A whole one must be left alone.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import safe_open

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.run import wrap_active
from simpletuner_twinflow.host.seams import Seam, uses

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


class OtherRunError(TwinFlowError):
    """The checkpoint is whole, and the configuration asks for another network than it holds."""

    def __init__(self, folder: Path, holds: str, key: str, value: Any) -> None:
        super().__init__(
            f"{folder} holds {holds}, and {key} is {value!r}, so this run cannot go on from it; it is not damaged and "
            f"is left as it is. Set {key} as it was, or train from the beginning with another output_dir."
        )


@uses(Seam("Trainer._delete_invalid_resume_checkpoint", ("checkpoint_dir", "reason")))
def attach_to_deleting(module: ModuleType) -> None:
    """Have a TwinFlow run delete no checkpoint that only does not fit the configuration; the run ends instead."""

    def delete(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> bool:
        if isinstance(sys.exception(), OtherRunError):
            return False  # the host then raises what has stopped it
        return wrapped(*args, **kwargs)

    wrap_active(module, "Trainer._delete_invalid_resume_checkpoint", delete)


def refuse_other_run(folder: Path, model: Any) -> None:
    """Refuse a whole checkpoint of another kind of training or rank.

    Args:
        folder: the checkpoint's.
        model: the host's `ModelFoundation`, with the network that is trained.

    Raises:
        OtherRunError: Names the key, its value, and the way out.
    """
    config, adapter = model.config, folder / ADAPTER_FILE
    if adapter.exists() != (config.model_type == "lora"):
        if not adapter.exists() and not (folder / model.MODEL_SUBFOLDER).is_dir():
            return  # neither kind of checkpoint; the host refuses it
        holds = "an adapter" if adapter.exists() else "a full model"
        raise OtherRunError(folder, holds, "model_type", config.model_type)
    if not adapter.exists():
        return
    parameters = model.get_trained_component(unwrap_model=True).named_parameters()
    ours = _rank(parameter.shape for name, parameter in parameters if ".lora_" in name)
    with safe_open(adapter, "pt") as file:
        keys = [key for key in file.keys() if "lora" in key.lower()]  # noqa: SIM118 - it is no mapping
        saved = _rank(file.get_slice(key).get_shape() for key in keys)
    if ours != saved:
        raise OtherRunError(folder, f"an adapter of rank {saved}", "lora_rank", config.lora_rank)


def _rank(shapes: Iterable[Any]) -> int:
    """The rank of an adapter's factors, whatever their names: the least width of any of them."""
    return min((min(shape[:2]) for shape in shapes if len(shape) > 1), default=0)
