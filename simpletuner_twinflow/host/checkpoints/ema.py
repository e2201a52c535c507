"""The averages (EMA) of a TwinFlow run in its checkpoints, and in those of other runs.

A full fine-tune saves the averages of the time conditioning with the others. A LoRA run keeps them in a file of their
own, so that its EMA loads wherever that of a plain run does.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.files import CheckpointError, read_tensors
from simpletuner_twinflow.host.checkpoints.saved_run import Trained
from simpletuner_twinflow.host.run import active_options, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, set_on, uses
from simpletuner_twinflow.host.training.compiled import named_parameters
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.lycoris import trained_parameters
from simpletuner_twinflow.host.training.sharded import is_fsdp2
from simpletuner_twinflow.host.training.time_conditioning import TimeConditionedClass

logger = logging.getLogger("simpletuner_twinflow")

EMA = "simpletuner.helpers.training.ema"
OF_ANOTHER_RUN = "it belongs to another run. Resume from another checkpoint"
EMA_STEP = "optimization_step"
EMA_SETTINGS = ("decay", "min_decay", "update_after_step", "warmup_steps", "use_ema_warmup", "inv_gamma", "power")
EMA_SEAMS = (
    *(Seam(f"EMAModel.{key}", touch=Touch.on_run, module=EMA) for key in (*EMA_SETTINGS, EMA_STEP)),
    Seam("EMAModel.shadow_params", touch=Touch.in_block, module=EMA),
)


@uses(
    Seam("Trainer.init_ema_model", ("self",)),
    Seam("Trainer._load_initial_lora_ema_state", ("self",)),
    Seam("EMAModel.model_cls", touch=Touch.on_run, module=EMA),
    *EMA_SEAMS,
)
def attach_to_ema(module: ModuleType) -> None:
    """Let the host save and load averages although TwinFlow has added parameters to the network."""

    def init_ema_model(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        ema, family_model = trainer.ema_model, trainer.twinflow_model
        if ema is not None and family_model.time_conditioning is not None:
            set_on(ema, "model_cls", TimeConditionedClass(ema.model_cls, family_model.family))

    def load_initial_lora_ema_state(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        if trainer.ema_model is None or not trainer.config.init_lora_ema:
            return wrapped(*args, **kwargs)
        ema, file = trainer.ema_model, trainer.config.init_lora_ema
        # As in a resumed run: the step comes from the file, decay and warm-up from the config.
        settings = {key: getattr(ema, key) for key in EMA_SETTINGS}
        try:
            with shadows_without_time_conditioning(ema, trainer.twinflow_model):
                _refuse_other_shapes(ema.shadow_params, Path(file))
                wrapped(*args, **kwargs)
        except (ValueError, OSError, TwinFlowError) as error:
            raise TwinFlowError(f"init_lora_ema is {file!r}, which cannot be loaded: {error}") from error
        for key, value in settings.items():
            set_on(ema, key, value)
        return None

    wrap_active(module, "Trainer.init_ema_model", init_ema_model)
    wrap_active(module, "Trainer._load_initial_lora_ema_state", load_initial_lora_ema_state)


@uses(Seam("SaveHookManager._save_ema_state", ("checkpoint_dir", "is_main_process")), *EMA_SEAMS)
def attach_to_saving(module: ModuleType) -> None:
    """Have an adapter's EMA saved as a plain run's; the averages of the time conditioning go into our file."""

    def save_ema_state(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        if manager.args.model_type != "lora" or manager.ema_model is None or is_fsdp2(manager.accelerator):
            return wrapped(*args, **kwargs)
        with shadows_without_time_conditioning(manager.ema_model, manager.model.twinflow_model):
            return wrapped(*args, **kwargs)

    wrap_active(module, "SaveHookManager._save_ema_state", save_ema_state)


@contextmanager
def shadows_without_time_conditioning(ema: Any, family_model: FamilyModel) -> Iterator[None]:
    """Inside this block the EMA has no averages of the time conditioning."""
    ours = {id(shadow) for shadow in time_conditioning_averages(ema, family_model).values()}
    with changed(ema, shadow_params=[shadow for shadow in ema.shadow_params if id(shadow) not in ours]):
        yield


def time_conditioning_averages(ema: Any, family_model: FamilyModel) -> dict[str, Tensor]:
    """The averages of the time conditioning by the parameters' names; they are the EMA's own tensors."""
    ours, trained = family_model.time_conditioning_parameters(), trained_parameters(family_model.model)
    return {name: shadow for name, shadow in zip(trained, ema.shadow_params, strict=True) if name in ours}


def _refuse_other_shapes(shadows: list[Tensor], file: Path) -> None:
    """Refuse averages of other shapes; the host would stretch those of rank 1 over any rank."""
    if not file.is_file():
        return  # the host refuses it
    saved = read_tensors(file, "set init_lora_ema to the EMA of that adapter, or remove it")
    for number, shadow in enumerate(shadows):
        average = saved.get(f"shadow_params.{number}")  # the host counts them
        if average is not None and average.shape != shadow.shape:
            raise TwinFlowError(
                f"it has an average of shape {tuple(average.shape)} where this run trains {tuple(shadow.shape)}. Set "
                "lora_rank as it was, or remove init_lora_ema."
            )


class SavedEma(NamedTuple):
    """The averages of a checkpoint by the parameters' names, and the counters that go with them."""

    averages: Mapping[str, Tensor]
    counters: Mapping[str, Any]


def read_ema(manager: Any, folder: Path, saved: Trained, ours: Mapping[str, Tensor]) -> SavedEma | None:
    """The checkpoint's averages; None where the run or the checkpoint has no EMA.

    Args:
        manager: the host's `SaveHookManager`.
        folder: the checkpoint's.
        saved: what its run trained.
        ours: averages of the time conditioning that are not in the host's file.

    Raises:
        CheckpointError: They are not those of the parameters that the checkpoint names, or of other shapes.
    """
    file = Path(manager._ema_checkpoint_path(str(folder)))
    if manager.ema_model is None or not file.exists():
        return None
    state = read_tensors(file)
    found = [value for key, value in state.items() if key.startswith("shadow_params.")]
    names = [name for name in saved.ema if name not in ours]
    if len(found) != len(names):
        problem = f"holds {len(found)} averages, where those of {len(names)} parameters were expected"
        raise CheckpointError(file, problem, OF_ANOTHER_RUN)
    # The host takes decay and warm-up from the checkpoint. With TwinFlow the average is the teacher, and they are taken
    # from the config.
    keys = (EMA_STEP,) if active_options(manager.args) is not None else (*EMA_SETTINGS, EMA_STEP)
    if lacking := [key for key in keys if key not in state]:
        raise CheckpointError(file, f"has no {', '.join(lacking)}")
    averages = dict(zip(names, found, strict=True)) | dict(ours)
    for name, parameter in named_parameters(manager.model.get_trained_component(unwrap_model=True)).items():
        if name in averages and (shape := tuple(averages[name].shape)) != parameter.shape:
            problem = f"has an average of shape {shape} for {name}, whose shape is {tuple(parameter.shape)}"
            raise CheckpointError(file, problem, OF_ANOTHER_RUN)
    return SavedEma(averages, {key: state[key] for key in keys})


def load_ema(manager: Any, folder: Path, network: nn.Module, current: Trained, saved: SavedEma | None) -> None:
    """Restore the averages on every rank; what was not averaged before starts from its weights as they are now."""
    if manager.ema_model is None:
        return
    if saved is None:
        if manager.accelerator.is_main_process:
            logger.warning("%s has no EMA: the averages start from its weights.", folder)
    else:
        for key, value in saved.counters.items():
            set_on(manager.ema_model, key, value)
    weights, averages = named_parameters(network), saved.averages if saved else {}
    for shadow, name in zip(manager.ema_model.shadow_params, current.ema, strict=True):
        shadow.data.copy_(averages.get(name, weights[name].detach()))
