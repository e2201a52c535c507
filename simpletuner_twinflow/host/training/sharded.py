"""A run whose weights FSDP2 shards over the ranks, or whose optimizer DeepSpeed does, and what it meets in the host."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host.run import active_options, argument, log_mending, wrap_active
from simpletuner_twinflow.host.seams import STATE, Seam, Touch, changed, uses, wrap
from simpletuner_twinflow.host.settings.deepspeed_config import refused_stage
from simpletuner_twinflow.method.sharding import reshard


def is_fsdp2(accelerator: Any) -> bool:
    """Whether this run's weights are sharded by FSDP2. Args: accelerator: of the host's trainer."""
    return bool(getattr(accelerator, "is_fsdp2", False))


def is_deepspeed(accelerator: Any) -> bool:
    """Whether DeepSpeed trains this run. Args: accelerator: of the host's trainer."""
    return getattr(accelerator, "distributed_type", None) == DistributedType.DEEPSPEED


def zero_stage(accelerator: Any) -> int | None:
    """The stage of DeepSpeed's ZeRO; None without DeepSpeed. Args: accelerator: of the host's trainer."""
    return int(accelerator.state.deepspeed_plugin.zero_stage) if is_deepspeed(accelerator) else None


@uses(
    Seam("Trainer.init_distillation", ("self",)),
    Seam("Accelerator.is_fsdp2", (), Touch.read, "accelerate.accelerator"),
    Seam("AcceleratorState.deepspeed_plugin", (), Touch.read, "accelerate.state"),
)
def attach_to_start(module: ModuleType) -> None:
    """Refuse weights that are sharded by anything but FSDP2, whatever key or variable has switched that on."""

    def init_distillation(wrapped: Callable, trainer: Any, args: tuple, kwargs: dict) -> None:
        kind, stage = trainer.accelerator.distributed_type.value, zero_stage(trainer.accelerator)
        if stage is not None and (problem := refused_stage("DeepSpeed has started with ZeRO stage", stage)):
            raise TwinFlowConfigError(problem)
        if kind in ("FSDP", "MEGATRON_LM") and not is_fsdp2(trainer.accelerator):
            raise TwinFlowConfigError(
                f"This run's processes share its weights by {kind}{'' if kind != 'FSDP' else ' 1'}, which TwinFlow "
                "cannot be combined with. Way out: set fsdp_enable to true and fsdp_version to 2, or train without."
            )
        wrapped(*args, **kwargs)
        if is_fsdp2(trainer.accelerator) and trainer.accelerator.is_main_process:
            log_mending("under FSDP2 averages are copied without a gradient, and SD3's blocks are called as such")

    wrap_active(module, "Trainer.init_distillation", init_distillation)


@uses(Seam("EMAModel.copy_to", ("parameters",)), Seam("EMAModel.restore", ("parameters",)))
def attach_to_ema(module: ModuleType) -> None:
    """Let averages be copied into sharded weights: the host writes to leaves that ask for a gradient."""

    def without_grad(wrapped: Callable, ema: Any, args: tuple, kwargs: dict) -> None:
        with torch.no_grad():
            return wrapped(*args, **kwargs)

    wrap_active(module, "EMAModel.copy_to", without_grad)
    wrap_active(module, "EMAModel.restore", without_grad)


@uses(Seam("SaveHookManager.save_model_hook", ("models",)))
def attach_to_saving(module: ModuleType) -> None:
    """Save the sharded parameters, not what a pass before has left gathered: the host takes whatever it finds."""

    def save_model_hook(wrapped: Callable, manager: Any, args: tuple, kwargs: dict) -> None:
        reshard(manager.model.get_trained_component(unwrap_model=True))
        return wrapped(*args, **kwargs)

    wrap_active(module, "SaveHookManager.save_model_hook", save_model_hook)


@uses(
    Seam("_sd3_apply_joint_transformer_block", ("block",)),
    Seam("JointTransformerBlock.forward", ("self",), Touch.in_block, "diffusers.models.attention"),
    Seam("StateTracker.get_args", touch=Touch.read, module=STATE),
)
def attach_to_sd3_blocks(module: ModuleType) -> None:
    """Have FSDP2 gather a block of SD3 before it is used: the host goes through its parts and never calls the block."""

    def apply(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        from simpletuner.helpers.training.state_tracker import StateTracker
        from torch.distributed.fsdp import FSDPModule

        block = argument(args, kwargs, "block")
        if not isinstance(block, FSDPModule) or active_options(StateTracker.get_args()) is None:
            return wrapped(*args, **kwargs)
        rest = {key: value for key, value in kwargs.items() if key != "block"}
        with changed(block, forward=partial(wrapped, block)):
            return nn.Module.__call__(block, *args[1:], **rest)  # FSDP2's hooks are on the call

    wrap(module, "_sd3_apply_joint_transformer_block", apply)
