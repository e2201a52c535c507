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
from simpletuner_twinflow.host.training.lycoris import as_plain, lycoris_of

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
    config, adapter, lycoris = model.config, folder / ADAPTER_FILE, lycoris_of(model)
    if adapter.exists() != (config.model_type == "lora"):
        if not adapter.exists() and not (folder / model.MODEL_SUBFOLDER).is_dir():
            return  # neither kind of checkpoint; the host refuses it
        holds = "an adapter" if adapter.exists() else "a full model"
        raise OtherRunError(folder, holds, "model_type", config.model_type)
    if not adapter.exists():
        return
    with safe_open(adapter, "pt") as file:
        saved_shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is no mapping
    holds_lycoris = all(key.startswith("lycoris_") for key in saved_shapes)
    if holds_lycoris != (lycoris is not None):
        holds = "a LyCORIS adapter" if holds_lycoris else "an adapter of PEFT"
        raise OtherRunError(folder, holds, "lora_type", config.lora_type)
    if lycoris is not None:
        with as_plain(lycoris):
            own_shapes = {key: list(weight.shape) for key, weight in lycoris.state_dict().items()}
        if own_shapes != saved_shapes:
            raise OtherRunError(folder, "a LyCORIS adapter of other shapes", "lycoris_config", config.lycoris_config)
        return
    parameters = model.get_trained_component(unwrap_model=True).named_parameters()
    ours = _rank(parameter.shape for name, parameter in parameters if ".lora_" in name)
    saved = _rank(shape for key, shape in saved_shapes.items() if "lora" in key.lower())
    if ours != saved:
        raise OtherRunError(folder, f"an adapter of rank {saved}", "lora_rank", config.lora_rank)


def _rank(shapes: Iterable[Any]) -> int:
    """The rank of an adapter's factors, whatever their names: the least width of any of them."""
    return min((min(shape[:2]) for shape in shapes if len(shape) > 1), default=0)
