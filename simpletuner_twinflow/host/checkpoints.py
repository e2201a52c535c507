"""Checkpoints of a TwinFlow run.

A full fine-tune saves and resumes the conditioning's weights with the network and its EMA. A LoRA run keeps them in a
file of their own beside the adapter, so that the adapter loads wherever a LoRA does: sampling needs none of them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors.torch import load_file, save_file

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.adapter import FamilyAdapter
from simpletuner_twinflow.host.conditioning import ConditionedClass
from simpletuner_twinflow.host.loss import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap

CONDITIONING_FILE = "twinflow_conditioning.safetensors"


@uses(Seam("Trainer.init_ema_model", ("self",)))
def attach_to_ema(module: ModuleType) -> None:
    """Let the host save a full model's EMA with the module that TwinFlow adds to the network."""

    def init_ema_model(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        conditioned = active_options(trainer.config) is not None and trainer.twinflow_adapter.conditioning is not None
        if conditioned and trainer.ema_model is not None:
            trainer.ema_model.model_cls = ConditionedClass(trainer.ema_model.model_cls, trainer.twinflow_adapter.family)

    wrap(module, "Trainer.init_ema_model", init_ema_model)


def save_conditioning(adapter: FamilyAdapter, folder: Path) -> None:
    """Write the conditioning's weights into a checkpoint's folder."""
    weights: Mapping[str, Any] = {
        f"{name}.{key}": weight.detach().cpu().contiguous()
        for name, module in adapter.conditioning_modules().items()
        for key, weight in module.state_dict().items()
    }
    if weights:
        save_file(dict(weights), folder / CONDITIONING_FILE)


def load_conditioning(adapter: FamilyAdapter, folder: Path) -> None:
    """Read the conditioning's weights back from a checkpoint's folder.

    Raises:
        TwinFlowError: the checkpoint has lost them.
        RuntimeError: they are those of another network.
    """
    modules, file = adapter.conditioning_modules(), folder / CONDITIONING_FILE
    if not modules:
        return
    if not file.exists():
        raise TwinFlowError(
            f"{file} is missing: the checkpoint's run kept the time conditioning's weights there. Resume from another."
        )
    weights = load_file(file)
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): weight for key, weight in weights.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
