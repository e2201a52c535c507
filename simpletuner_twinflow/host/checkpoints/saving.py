"""Checkpoints of a TwinFlow run.

A full fine-tune saves and resumes the conditioning's weights with the network and its EMA. A LoRA run keeps weights and
averages in a file of their own beside the adapter, so that adapter and EMA load wherever those of a plain run do:
sampling needs none of ours.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.files import TIME_CONDITIONING_FILE
from simpletuner_twinflow.host.run import active_options
from simpletuner_twinflow.host.seams import Seam, uses, wrap
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.time_conditioning import TimeConditionedClass

EMA_SETTINGS = ("decay", "min_decay", "update_after_step", "warmup_steps", "use_ema_warmup", "inv_gamma", "power")


@uses(Seam("Trainer.init_ema_model", ("self",)), Seam("Trainer._load_initial_lora_ema_state", ("self",)))
def attach_to_ema(module: ModuleType) -> None:
    """Let the host save and load averages although TwinFlow has added parameters to the network."""

    def init_ema_model(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        conditioned = active_options(trainer.config) is not None and trainer.twinflow_model.conditioning is not None
        if conditioned and trainer.ema_model is not None:
            trainer.ema_model.model_cls = TimeConditionedClass(
                trainer.ema_model.model_cls, trainer.twinflow_model.family
            )

    def load_initial_lora_ema_state(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        if active_options(trainer.config) is None or trainer.ema_model is None or not trainer.config.init_lora_ema:
            return wrapped(*args, **kwargs)
        ema, file = trainer.ema_model, trainer.config.init_lora_ema
        # As in a resumed run: the file says where the average stands, and the config how it goes on.
        settings = {key: getattr(ema, key) for key in EMA_SETTINGS}
        try:
            with shadows_without_time_conditioning(ema, trainer.twinflow_model):
                _refuse_other_shapes(ema.shadow_params, Path(file))
                wrapped(*args, **kwargs)
        except (ValueError, OSError, TwinFlowError) as error:
            raise TwinFlowError(f"init_lora_ema is {file!r}, which cannot be loaded: {error}") from error
        for key, value in settings.items():
            setattr(ema, key, value)
        return None

    wrap(module, "Trainer.init_ema_model", init_ema_model)
    wrap(module, "Trainer._load_initial_lora_ema_state", load_initial_lora_ema_state)


def _refuse_other_shapes(shadows: list[Tensor], file: Path) -> None:
    """Refuse averages of other shapes; the host would stretch those of rank 1 over any rank.

    Raises:
        TwinFlowError: Names the shapes.
    """
    if not file.is_file():
        return  # the host says so
    saved = read_tensors(file, "set init_lora_ema to the EMA of that adapter, or remove it")
    for number, shadow in enumerate(shadows):
        average = saved.get(f"shadow_params.{number}")  # the host counts them
        if average is not None and average.shape != shadow.shape:
            raise TwinFlowError(
                f"it has an average of shape {tuple(average.shape)} where this run trains {tuple(shadow.shape)}. Set "
                "lora_rank as it was, or remove init_lora_ema."
            )


@uses(Seam("SaveHookManager._save_ema_state", ("checkpoint_dir", "is_main_process")))
def attach_to_saving(module: ModuleType) -> None:
    """Have an adapter's EMA saved as a plain run's; the conditioning's averages go into our file."""

    def save_ema_state(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        ours = active_options(manager.args) is not None and manager.args.model_type == "lora"
        if not ours or manager.ema_model is None:
            return wrapped(*args, **kwargs)
        with shadows_without_time_conditioning(manager.ema_model, manager.model.twinflow_model):
            return wrapped(*args, **kwargs)

    wrap(module, "SaveHookManager._save_ema_state", save_ema_state)


@contextmanager
def shadows_without_time_conditioning(ema: Any, family_model: FamilyModel) -> Iterator[None]:
    """Inside this block the EMA has the averages that a plain run's has, and no others."""
    every = ema.shadow_params
    ours = {id(shadow) for shadow in time_conditioning_averages(ema, family_model).values()}
    ema.shadow_params = [shadow for shadow in every if id(shadow) not in ours]
    try:
        yield
    finally:
        ema.shadow_params = every


def time_conditioning_averages(ema: Any, family_model: FamilyModel) -> dict[str, Tensor]:
    """The conditioning's averages by the parameters' names; they are the EMA's own tensors."""
    network = family_model.model.get_trained_component(unwrap_model=True)
    ours = {id(parameter): name for name, parameter in family_model.time_conditioning_parameters().items()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return {
        ours[id(parameter)]: shadow
        for parameter, shadow in zip(trained, ema.shadow_params, strict=True)
        if id(parameter) in ours
    }


def save_time_conditioning(family_model: FamilyModel, ema: Any | None, folder: Path) -> None:
    """Write the conditioning's weights and averages into a checkpoint's folder.

    Args:
        family_model: of the run.
        ema: the host's `EMAModel`; None in a run without.
        folder: the checkpoint's.
    """
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
    """The conditioning's weights and averages, by name, from a checkpoint's folder.

    Raises:
        TwinFlowError: the checkpoint has lost them, or they cannot be read.
    """
    file = folder / TIME_CONDITIONING_FILE
    content = read_tensors(file)
    try:
        return content["weights"], content["averages"]
    except KeyError as error:
        raise TwinFlowError(
            f"{folder / TIME_CONDITIONING_FILE} has no {error}: resume from another checkpoint."
        ) from error


def load_time_conditioning(family_model: FamilyModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Give the conditioning's modules these weights; a module that has none keeps its own.

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


def read_tensors(file: Path, way_out: str = "resume from another checkpoint") -> Mapping[str, Any]:
    """What torch has saved in a file of a checkpoint, on the CPU. Args: way_out: said in an error.

    Raises:
        TwinFlowError: it is missing or damaged.
    """
    if not file.exists():
        raise TwinFlowError(f"{file} is missing: {way_out}.")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TwinFlowError(f"{file} is damaged ({reason}): {way_out}.") from error
