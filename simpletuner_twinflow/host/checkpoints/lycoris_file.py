"""The files of a LyCORIS adapter: those of a plain run; the last one has the weights that a TwinFlow run exports."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from simpletuner_twinflow.host.checkpoints.ema import shadows_without_time_conditioning
from simpletuner_twinflow.host.checkpoints.export import stock_scheduler_of, weights_to_export
from simpletuner_twinflow.host.run import argument, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, uses, wrap
from simpletuner_twinflow.host.settings.conflict_rows import is_lycoris
from simpletuner_twinflow.host.training.lycoris import EXPORT, as_plain, lycoris_of


@uses(Seam("Trainer.init_distillation", ("self",)))
def attach_to_export(module: ModuleType) -> None:
    """Have the last adapter of a LyCORIS run hold the weights that the run exports, with a scheduler beside it."""

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        if (lycoris := lycoris_of(trainer.model)) is not None:
            setattr(lycoris, EXPORT, partial(_exported, trainer))

    wrap_active(module, "Trainer.init_distillation", init_distillation)


@uses(
    Seam("SaveHookManager._save_lycoris", ("models", "weights", "output_dir")),
    Seam("SaveHookManager._load_lycoris", ("models", "input_dir")),
    Seam("_materialize_lycoris_state_dict_for_save", ("network",)),
    Seam("Accelerator._lycoris_wrapped_network", touch=Touch.given, module="accelerate.accelerator"),
    lost="a LyCORIS run cannot export its weights",
    needed_by=lambda config: is_lycoris(config.get("lora_type")),
)
def attach_to_files(module: ModuleType) -> None:
    """Write and read a checkpoint's adapter as a plain run's; in a TwinFlow run, write the final one as asked for."""

    def save_lycoris(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        with ExitStack() as plain:
            if manager.ema_model is not None:
                averages = shadows_without_time_conditioning(manager.ema_model, manager.model.twinflow_model)
                plain.enter_context(averages)
            plain.enter_context(as_plain(lycoris_of(manager.model)))
            wrapped(*args, **kwargs)

    def load_lycoris(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        with as_plain(lycoris_of(manager.model)):
            wrapped(*args, **kwargs)

    def materialize(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> dict:
        export = vars(argument(args, kwargs, "network")).get(EXPORT)
        return wrapped(*args, **kwargs) if export is None else export(partial(wrapped, *args, **kwargs))

    wrap_active(module, "SaveHookManager._save_lycoris", save_lycoris)
    wrap_active(module, "SaveHookManager._load_lycoris", load_lycoris)
    wrap(module, "_materialize_lycoris_state_dict_for_save", materialize)


def _exported(trainer: Any, materialize: Callable[[], dict]) -> dict:
    """The final adapter's weights. Args: materialize: reads them from the LyCORIS network, on every rank."""
    if trainer.accelerator.is_main_process and (scheduler := stock_scheduler_of(trainer.model)) is not None:
        scheduler.save_pretrained(Path(trainer.config.output_dir) / "scheduler")
    with weights_to_export(trainer), as_plain(lycoris_of(trainer.model)):
        return materialize()
