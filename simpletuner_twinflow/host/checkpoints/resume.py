"""Resuming: from a checkpoint that is finished and whole, and across a change of what is trained.

With TwinFlow a run trains a few parameters more, the time conditioning. Each checkpoint therefore lists by name the
parameters of its optimizer and its EMA, and a run that trains others takes those that it has: a plain run can be
continued with TwinFlow and a TwinFlow run without. A checkpoint without that list is one of a plain run.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.checkpoints.ema import EMA_SEAMS, load_ema, read_ema
from simpletuner_twinflow.host.checkpoints.files import damage, is_finished
from simpletuner_twinflow.host.checkpoints.optimizer_state import Groups, fit_optimizer_state
from simpletuner_twinflow.host.checkpoints.other_run import OtherRunError, refuse_other_run
from simpletuner_twinflow.host.checkpoints.saved_run import SavedRun, Trained, saved_by
from simpletuner_twinflow.host.checkpoints.saving import load_time_conditioning, read_time_conditioning
from simpletuner_twinflow.host.checkpoints.sharded_files import own_settings, refuse_other_layout, refuse_other_shards
from simpletuner_twinflow.host.run import active_options, argument, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, uses, wrap
from simpletuner_twinflow.host.training.announce import RESUMED
from simpletuner_twinflow.host.training.sharded import is_deepspeed, is_fsdp2

logger = logging.getLogger("simpletuner_twinflow")

STARTED = "twinflow_resumed_from"  # of the accelerator: the checkpoint whose loading was started last


@uses(
    Seam("Trainer.checkpoint_state_latest", ("output_dir",)),
    Seam(
        "CheckpointManager.get_latest_checkpoint",
        touch=Touch.read,
        module="simpletuner.helpers.utils.checkpoint_manager",
    ),
)
def attach_to_latest_checkpoint(module: ModuleType) -> None:
    """Resume a TwinFlow run from the latest checkpoint that was finished; start anew where none was."""

    def latest(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> str | None:
        found = wrapped(*args, **kwargs)
        if found is None and (started := getattr(trainer.accelerator, STARTED, None)) is not None:
            raise TwinFlowError(
                f"{started} was damaged in the middle of a file, which showed while it was loaded, and no checkpoint "
                "is left: the weights are partly its own now. Start the run once more to train from the beginning."
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
    *EMA_SEAMS,
    Seam("Accelerator._optimizers", touch=Touch.read, module="accelerate.accelerator"),
)
def attach_to_loading(module: ModuleType) -> None:
    """Load a checkpoint with or without TwinFlow into a run with or without it."""

    def load_model_hook(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(argument(args, kwargs, "input_dir", 1))
        active = active_options(manager.args) is not None
        with deletion_logged(manager.args, manager.accelerator):
            if active:
                refuse_damaged(folder, manager.args, manager.accelerator)
                refuse_other_run(folder, manager.model)
            run = saved_by(folder)
            if run is None and not active:
                return wrapped(*args, **kwargs)
            refuse_other_layout(folder, manager)
            optimizer, *_ = manager.accelerator._optimizers
            current = Trained.of(manager.model, optimizer)
            sharded = is_fsdp2(manager.accelerator)
            if sharded:
                refuse_other_shards(folder, run, current, manager.args)
            saved = current.without(current.time_conditioning) if run is None else run.trained
            # All is read and checked before anything is loaded, so that what cannot be loaded leaves no trace.
            in_own_file = manager.args.model_type == "lora" and saved.time_conditioning and not sharded
            weights, averages = read_time_conditioning(folder) if in_own_file else ({}, {})
            shadows = read_ema(manager, folder, saved, averages)
        changes = [] if run is None else run.changes(manager.args, manager.accelerator.num_processes)
        if manager.accelerator.is_main_process:
            _log_changes(manager, folder, run, current, changes)
        if active:
            setattr(manager.accelerator, STARTED, folder)
            setattr(manager.accelerator, RESUMED, _said_of_resume(folder, run, changes))
        if sharded:  # the host's files hold all that is trained, ours too
            with own_settings(manager.ema_model, keep=active):
                return wrapped(*args, **kwargs)
        if not is_deepspeed(manager.accelerator):  # which has loaded each rank's part of its own already
            _fit_next_state(optimizer.optimizer, saved.optimizer, current.optimizer)
        network = manager.model.get_trained_component(unwrap_model=True)
        wrapped(*args, **kwargs)
        if active:
            load_time_conditioning(manager.model.twinflow_model, weights, folder)
        load_ema(manager, folder, network, current, shadows)
        return None

    def load_ema_state(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        folder = Path(argument(args, kwargs, "checkpoint_dir"))
        if (active_options(manager.args) is None and saved_by(folder) is None) or is_fsdp2(manager.accelerator):
            wrapped(*args, **kwargs)
        # Otherwise `load_ema` follows once the network's own weights are loaded.

    wrap(module, "SaveHookManager.load_model_hook", load_model_hook)
    wrap(module, "SaveHookManager._load_ema_state", load_ema_state)


@contextmanager
def deletion_logged(config: Any, accelerator: Any) -> Iterator[None]:
    """Log why a checkpoint cannot be loaded where the host deletes it for that; the host does not."""
    try:
        yield
    except OtherRunError:
        raise  # nothing is deleted then
    except TwinFlowError as error:
        if config.delete_invalid_checkpoints and accelerator.is_main_process:
            logger.warning("%s SimpleTuner deletes this checkpoint, since delete_invalid_checkpoints is true.", error)
        raise


def refuse_damaged(folder: Path, config: Any, accelerator: Any) -> None:
    """Refuse a checkpoint that is not whole, before anything of it is loaded.

    Args:
        folder: the checkpoint's.
        config: the host's.
        accelerator: the run's; all ranks look before the host on one of them deletes a damaged checkpoint.

    Raises:
        TwinFlowError: Names the file and the way out; the host takes it as the sign of a damaged checkpoint.
    """
    problem = damage(folder)
    if problem is None and config.resume_from_checkpoint == "latest" and not is_finished(folder):
        problem = f"{folder} was not finished when its run ended"
    accelerator.wait_for_everyone()
    if problem is not None and config.delete_invalid_checkpoints:
        raise TwinFlowError(f"{problem}.")
    if problem is not None:
        raise TwinFlowError(
            f"{problem}. Set resume_from_checkpoint to another checkpoint, or delete_invalid_checkpoints to true to "
            "have SimpleTuner delete this one and go on from the one before it."
        )


def _log_changes(manager: Any, folder: Path, run: SavedRun | None, current: Trained, changes: list[str]) -> None:
    """Log what differs between the run that wrote the checkpoint and this one."""
    if active_options(manager.args) is None:
        logger.warning("%s was trained with TwinFlow; this run goes on without it.", folder)
        return
    if run is None:
        logger.warning(
            "%s was trained without TwinFlow: its time conditioning starts from zero (%s).",
            folder,
            ", ".join(current.time_conditioning) or "none in this mode",
        )
        return
    saved, now = run.trained, current
    if missing := _difference(now.time_conditioning, saved.time_conditioning):
        logger.warning("%s has no %s: it starts from zero.", folder, ", ".join(missing))
    if dropped := _difference(saved.time_conditioning, now.time_conditioning):
        logger.warning("%s has trained %s, which this run leaves out.", folder, ", ".join(dropped))
    saved, now = (trained.without(trained.time_conditioning) for trained in (saved, now))
    if new := _difference(now.ema, saved.ema):
        logger.warning("%s has not trained %s: what it lacks starts anew.", folder, _listed(new))
    if dropped := _difference(saved.ema, now.ema):
        logger.warning("%s has trained %s, which this run leaves out.", folder, _listed(dropped))
    if changes:
        logger.warning("%s was trained with other settings: %s.", folder, ", ".join(changes))


def _said_of_resume(folder: Path, run: SavedRun | None, changes: list[str]) -> str:
    """For the block at the start of the run: where it goes on from, and what differs from the run that was there."""
    if run is None:
        return f"from {folder}, trained without TwinFlow"
    return f"from {folder}, with {'other settings: ' + ', '.join(changes) if changes else 'the same settings'}"


def _difference(names: list[str], others: list[str]) -> list[str]:
    return [name for name in names if name not in {*others}]


def _listed(names: list[str]) -> str:
    """Names of parameters for a line of the log; there may be hundreds."""
    return f"{names[0]} and {len(names) - 1} more parameters" if len(names) > 1 else names[0]


def _fit_next_state(optimizer: Any, saved: Groups, current: Groups) -> None:
    """Fit the next state that is loaded into the optimizer, in place of what a failed attempt has left to be fitted."""
    if (before := getattr(optimizer, "twinflow_fit", None)) is not None:
        before.remove()

    def fit(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        optimizer.twinflow_fit.remove()
        return fit_optimizer_state(state_dict, saved, current)

    optimizer.twinflow_fit = optimizer.register_load_state_dict_pre_hook(fit)
