"""FSDP2 on machines without an accelerator."""

from collections.abc import Callable
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from .events import around


def on_cpu() -> None:
    """Have Accelerate take the host's FSDP plugin in processes of one CPU group, too; it asks for accelerators."""

    def init(wrapped: Callable, state: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
            PartialState._shared_state["distributed_type"] = state.distributed_type  # as it does for accelerators

    around("accelerate.state", "AcceleratorState.__init__", init)
