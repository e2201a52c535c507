"""A TwinFlow run in several processes: no pass and no checkpoint may wait for the other ranks.

Ranks draw different roles, and so make different numbers of passes.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from simpletuner_twinflow.host.run import log_mending, wrap_active
from simpletuner_twinflow.host.seams import Seam, Touch, set_on, uses


@uses(
    Seam("Trainer.init_distillation", ("self",)),
    Seam("Accelerator.ddp_handler", touch=Touch.on_run, module="accelerate.accelerator"),
    Seam("DistributedDataParallelKwargs.broadcast_buffers", touch=Touch.on_run, module="accelerate.utils.dataclasses"),
)
def attach_to_data_parallel(module: ModuleType) -> None:
    """Have DDP not broadcast buffers, which it does in a pass; each rank computes the same ones."""

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        accelerator = trainer.accelerator
        if accelerator.ddp_handler is None:
            set_on(accelerator, "ddp_handler", DistributedDataParallelKwargs())
        set_on(accelerator.ddp_handler, "broadcast_buffers", False)
        if accelerator.num_processes > 1 and accelerator.is_main_process:
            what = "DDP leaves buffers alone, and checkpoints of a full model do not wait for ranks that have gone on"
            log_mending(what)

    wrap_active(module, "Trainer.init_distillation", init_distillation)


@uses(Seam("SaveHookManager._save_full_model", ("is_main_process", "distributed_type")))
def attach_to_full_checkpoints(module: ModuleType) -> None:
    """Have the main process save a full model without waiting for the ranks, which have gone on already."""

    def save_full_model(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        kind = kwargs["distributed_type"]
        if kind == DistributedType.DEEPSPEED or kind.value.startswith("MULTI_"):
            kwargs = kwargs | {"distributed_type": DistributedType.NO}
        return wrapped(*args, **kwargs)

    wrap_active(module, "SaveHookManager._save_full_model", save_full_model)
