"""Checkpoints of a TwinFlow run.

A full fine-tune saves and resumes the conditioning's weights with the network and its EMA. A LoRA run keeps them in a
file of their own beside the adapter, so that the adapter loads wherever a LoRA does: sampling needs none of them.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_file, save_file

from simpletuner_twinflow.host.adapter import CONDITIONING, ConditionedClass, FamilyAdapter
from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap

CONDITIONING_FILE = "twinflow_conditioning.safetensors"


@uses(Seam("Trainer.init_ema_model", ("self",)))
def attach_to_ema(module: ModuleType) -> None:
    """Let the host save a full model's EMA with the module that TwinFlow adds to the network."""

    def init_ema_model(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if active_options(trainer.config) is not None and trainer.ema_model is not None:
            trainer.ema_model.model_cls = ConditionedClass(trainer.ema_model.model_cls, trainer.twinflow_adapter.family)

    wrap(module, "Trainer.init_ema_model", init_ema_model)


@uses(Seam("ModelFoundation.save_lora_weights"))
def keep_adapter_files_ordinary(module: ModuleType) -> None:
    """Leave the conditioning's weights out of the adapter files of a TwinFlow run."""

    def save_lora_weights(wrapped: Callable, model: Any, args: tuple, kwargs: dict) -> Any:
        if active_options(model.config) is None:
            return wrapped(*args, **kwargs)
        return wrapped(*args, **{key: _ordinary(key, value) for key, value in kwargs.items()})

    wrap(module, "ModelFoundation.save_lora_weights", save_lora_weights)


def _ordinary(argument: str, value: Any) -> Any:
    if argument.endswith("_lora_layers"):
        return {key: weight for key, weight in value.items() if key.split(".")[0] not in CONDITIONING}
    if argument.endswith("_lora_adapter_metadata"):
        return {key: _without_conditioning(key, entry) for key, entry in value.items()}
    return value


def _without_conditioning(key: str, entry: Any) -> Any:
    if not key.endswith("modules_to_save") or entry is None:
        return entry
    return [name for name in entry if name not in CONDITIONING] or None


def save_conditioning(adapter: FamilyAdapter, folder: Path) -> None:
    """Write the conditioning's weights into a checkpoint's folder."""
    weights: Mapping[str, Any] = {
        f"{name}.{key}": weight.detach().cpu().contiguous()
        for name, module in adapter.conditioning_modules().items()
        for key, weight in module.state_dict().items()
    }
    save_file(dict(weights), folder / CONDITIONING_FILE)


def load_conditioning(adapter: FamilyAdapter, folder: Path) -> None:
    """Read the conditioning's weights back; a checkpoint of a run without TwinFlow has none, and says so."""
    file = folder / CONDITIONING_FILE
    if not file.exists():
        logging.getLogger("simpletuner_twinflow").warning(
            "%s has no %s: it was trained without TwinFlow, whose time conditioning starts from zero.",
            folder,
            CONDITIONING_FILE,
        )
        return
    weights = load_file(file)
    for name, module in adapter.conditioning_modules().items():
        own = {key.removeprefix(f"{name}."): weight for key, weight in weights.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
