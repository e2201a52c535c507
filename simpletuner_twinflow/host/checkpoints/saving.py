"""What a checkpoint of a TwinFlow run holds beside the host's files.

A LoRA run keeps the weights and averages of the time conditioning, which sampling does not need, in a file of their
own: adapter and EMA then load wherever those of a plain run do. A full fine-tune saves them with the network.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.ema import time_conditioning_averages
from simpletuner_twinflow.host.checkpoints.files import TIME_CONDITIONING_FILE, CheckpointError, read_tensors
from simpletuner_twinflow.host.checkpoints.saved_run import save_run
from simpletuner_twinflow.host.run import wrap_active
from simpletuner_twinflow.host.seams import Seam, uses
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.method.sharding import reshard


@uses(Seam("Trainer.init_distillation", ("self",)))
def attach_to_checkpoints(module: ModuleType) -> None:
    """Have the distiller save what the host does not: what the run trains and how, a LoRA run's time conditioning."""

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        trainer.twinflow_save = partial(save, trainer)

    wrap_active(module, "Trainer.init_distillation", init_distillation)


def save(trainer: Any, folder: Path) -> None:
    """Write our files of a checkpoint. Args: trainer: of a TwinFlow run. folder: the checkpoint's."""
    reshard(trainer.model.get_trained_component(unwrap_model=True))  # the names are those of the sharded parameters
    if not trainer.accelerator.is_main_process:
        return
    save_run(trainer.model, trainer.optimizer, trainer.accelerator.num_processes, folder)
    if trainer.config.model_type == "lora" and not is_fsdp2(trainer.accelerator):  # FSDP2's shards hold it
        save_time_conditioning(trainer.twinflow_model, trainer.ema_model, folder)


def save_time_conditioning(family_model: FamilyModel, ema: Any | None, folder: Path) -> None:
    """Write weights and averages of the time conditioning. Args: ema: the host's, or None. folder: the checkpoint's."""
    weights = {
        f"{name}.{key}": weight.detach().cpu().clone()
        for name, module in family_model.time_conditioning_modules().items()
        for key, weight in module.state_dict().items()
    }
    if not weights:
        return
    averages = {} if ema is None else time_conditioning_averages(ema, family_model)
    file = folder / TIME_CONDITIONING_FILE
    file.parent.mkdir(exist_ok=True)
    torch.save({"weights": weights, "averages": {key: value.cpu().clone() for key, value in averages.items()}}, file)


def read_time_conditioning(folder: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Weights and averages of the time conditioning, by name, from a checkpoint's folder.

    Raises:
        CheckpointError: the checkpoint has lost them, or they cannot be read.
    """
    content = read_tensors(folder / TIME_CONDITIONING_FILE)
    try:
        return content["weights"], content["averages"]
    except KeyError as error:
        raise CheckpointError(folder / TIME_CONDITIONING_FILE, f"has no {error}") from error


def load_time_conditioning(family_model: FamilyModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load these weights into the time conditioning's modules; a module that has none among them keeps its own.

    Raises:
        TwinFlowError: they are those of another network.
    """
    for name, module in family_model.time_conditioning_modules().items():
        own = {key.removeprefix(f"{name}."): weight for key, weight in weights.items() if key.startswith(f"{name}.")}
        if not own:
            continue
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise TwinFlowError(f"{folder / TIME_CONDITIONING_FILE} is of another network: {error}") from error
