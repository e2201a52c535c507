"""Resuming: from a checkpoint that is finished and whole, and across a change of what is trained.

With TwinFlow a run trains a few parameters more, the time conditioning. Each checkpoint therefore says which parameters
its optimizer and its EMA cover, by name, and a run that trains others takes what belongs to it: a plain run can be
continued with TwinFlow and a TwinFlow run without. A checkpoint without that list is one of a plain run.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.ema import EMA_SEAMS, load_ema, read_ema
from simpletuner_twinflow.host.checkpoints.files import damage, is_finished
from simpletuner_twinflow.host.checkpoints.optimizer_state import Groups, fit_optimizer_state
from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError, refuse_other_run
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained, saved_by
from simpletuner_twinflow.host.checkpoints.saving import load_time_conditioning, read_time_conditioning
from simpletuner_twinflow.host.run import active_options, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, changed, uses, wrap

logger = logging.getLogger("simpletuner_twinflow")

LATEST = "latest"
BEGUN = "twinflow_resumed_from"  # of the accelerator: the checkpoint whose loading was begun last


@uses(Seam("Trainer.checkpoint_state_latest", ("output_dir",)))
def attach_to_latest_checkpoint(module: ModuleType) -> None:
    """Resume a TwinFlow run from the latest checkpoint that was finished; start anew where none was."""

    def latest(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> str | None:
        found = wrapped(*args, **kwargs)
        if found is None and (begun := getattr(trainer.accelerator, BEGUN, None)) is not None:
            raise TwinFlowError(
                f"{begun} was damaged in the middle of a file, which showed while it was loaded, and no checkpoint is "
                "left: the weights are partly its own now. Start the run once more to train from the beginning."
            )
        if found is None or trainer.checkpoint_manager is None:
            return found
        whole = trainer.checkpoint_manager.get_latest_checkpoint(require_guard=True)
        if whole == found or trainer.config.delete_invalid_checkpoints:  # the host then deletes what it cannot load
            return found
        if whole is not None:
            logger.warning("%s was not finished when its run ended; resuming from %s.", found, whole)
        else:
            logger.warning(
                "%s was not finished when its run ended, and no other checkpoint was: the run starts from the "
                "beginning. To load it all the same, set resume_from_checkpoint to %s.",
                found,
                found,
            )
        return whole

    wrap_active(module, "Trainer.checkpoint_state_latest", latest)


@uses(
    Seam("SaveHookManager.load_model_hook", ("models", "input_dir")),
    Seam("SaveHookManager._load_ema_state", ("checkpoint_dir",)),
    Seam("SaveHookManager._ema_checkpoint_path", ("checkpoint_dir",), Touch.read),
    Seam("load_torch_model", touch=Touch.in_block),
    *EMA_SEAMS,
    Seam("Accelerator._optimizers", touch=Touch.read, module="accelerate.accelerator"),
)
def attach_to_loading(module: ModuleType) -> None:
    """Load a checkpoint with or without TwinFlow into a run with or without it."""

    def load_model_hook(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(args[1] if len(args) > 1 else kwargs["input_dir"])
        active = active_options(manager.args) is not None
        with _told(manager):
            if active:
                refuse_damaged(folder, manager.args, manager.accelerator)
                refuse_other_run(folder, manager.model)
            run = saved_by(folder)
            if run is None and not active:
                return wrapped(*args, **kwargs)
            optimizer, *_ = manager.accelerator._optimizers
            current = Trained.of(manager.model, optimizer)
            saved = current.without(current.conditioning) if run is None else run.trained
            # All is read and checked before anything is loaded, so that what cannot be loaded leaves no trace.
            weights, averages = _conditioning_of(manager, folder, saved)
            shadows = read_ema(manager, folder, saved, averages)
        _tell_changes(manager, folder, run, current)
        if active:
            setattr(manager.accelerator, BEGUN, folder)
        _fit_next_state(optimizer.optimizer, saved.optimizer, current.optimizer)
        network = manager.model.get_trained_component(unwrap_model=True)
        with _forgiven(module, {*saved.conditioning} ^ {*current.conditioning}):
            wrapped(*args, **kwargs)
        if active:
            load_time_conditioning(manager.model.twinflow_model, weights, folder)
        load_ema(manager, folder, network, current, shadows)
        return None

    def load_ema_state(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(args[0] if args else kwargs["checkpoint_dir"])
        if active_options(manager.args) is None and saved_by(folder) is None:
            wrapped(*args, **kwargs)
        # Otherwise ours follows once the network's own weights are loaded.

    wrap(module, "SaveHookManager.load_model_hook", load_model_hook)
    wrap(module, "SaveHookManager._load_ema_state", load_ema_state)


@contextmanager
def _told(manager: Any) -> Iterator[None]:
    """Say why a checkpoint is not loaded where the host deletes it for that, which it does without a word."""
    try:
        yield
    except OtherRunError:
        raise  # nothing is deleted then
    except TwinFlowError as error:
        if manager.args.delete_invalid_checkpoints and manager.accelerator.is_main_process:
            logger.warning("%s SimpleTuner deletes this checkpoint, since delete_invalid_checkpoints is true.", error)
        raise


def refuse_damaged(folder: Path, config: Any, accelerator: Any) -> None:
    """End the attempt to resume from a checkpoint that is not whole, before anything of it is loaded.

    Args:
        folder: the checkpoint's.
        config: the host's.
        accelerator: the run's; all ranks look before one of them may go on to delete what it has found damaged.

    Raises:
        TwinFlowError: Names the file and the way out; the host takes it as the sign of a damaged checkpoint.
    """
    problem = damage(folder)
    if problem is None and config.resume_from_checkpoint == LATEST and not is_finished(folder):
        problem = f"{folder} was not finished when its run ended"
    accelerator.wait_for_everyone()
    if problem is not None:
        way_out = (
            ""
            if config.delete_invalid_checkpoints
            else " Set resume_from_checkpoint to another checkpoint, or delete_invalid_checkpoints to true to have "
            "SimpleTuner delete this one and go on from the one before it."
        )
        raise TwinFlowError(f"{problem}.{way_out}")


def _conditioning_of(manager: Any, folder: Path, saved: Trained) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """An adapter's conditioning, weights and averages; a full model has it among its own."""
    if manager.args.model_type != "lora" or not saved.conditioning:
        return {}, {}
    return read_time_conditioning(folder)


def _tell_changes(manager: Any, folder: Path, run: SavedRun | None, current: Trained) -> None:
    """Say once what differs between the run that wrote the checkpoint and this one."""
    if not manager.accelerator.is_main_process:
        return
    if active_options(manager.args) is None:
        logger.warning("%s was trained with TwinFlow; this run goes on without it.", folder)
        return
    if run is None:
        logger.warning(
            "%s was trained without TwinFlow: its time conditioning starts from zero (%s).",
            folder,
            ", ".join(current.conditioning) or "none in this mode",
        )
        return
    if missing := [name for name in current.conditioning if name not in run.trained.conditioning]:
        logger.warning("%s has no %s: it starts from zero.", folder, ", ".join(missing))
    if dropped := [name for name in run.trained.conditioning if name not in current.conditioning]:
        logger.warning("%s has trained %s, which this run leaves out.", folder, ", ".join(dropped))
    saved, now = (trained.without(trained.conditioning).ema for trained in (run.trained, current))
    if new := [name for name in now if name not in {*saved}]:
        logger.warning("%s has not trained %s: what it lacks starts anew.", folder, _listed(new))
    if dropped := [name for name in saved if name not in {*now}]:
        logger.warning("%s has trained %s, which this run leaves out.", folder, _listed(dropped))
    if changes := run.changes(manager.args, manager.accelerator.num_processes):
        logger.warning("%s was trained with other settings: %s.", folder, ", ".join(changes))


def _listed(names: list[str]) -> str:
    """Names of parameters for a line of the log; there may be hundreds."""
    return f"{names[0]} and {len(names) - 1} more parameters" if len(names) > 1 else names[0]


def _fit_next_state(optimizer: Any, saved: Groups, current: Groups) -> None:
    """Fit the next state that is loaded into the optimizer; of an attempt before, which failed, nothing is left."""
    if (before := getattr(optimizer, "twinflow_fit", None)) is not None:
        before.remove()

    def fit(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        optimizer.twinflow_fit.remove()
        return fit_optimizer_state(state_dict, saved, current)

    optimizer.twinflow_fit = optimizer.register_load_state_dict_pre_hook(fit)


@contextmanager
def _forgiven(module: ModuleType, names: set[str]) -> Iterator[None]:
    """Load full models inside this block without complaint about parameters of these names, missing or unexpected."""
    load_torch_model = vars(module)["load_torch_model"]

    def load(*args: Any, **kwargs: Any) -> Any:
        found = load_torch_model(*args, **kwargs)
        return type(found)(*([key for key in keys if key not in names] for keys in found))

    with changed(module, load_torch_model=load):
        yield
