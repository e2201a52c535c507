"""DeepSpeed on machines without an accelerator, and what its ranks come to."""

from collections.abc import Callable
from typing import Any

from .events import around, note
from .sharded import described


def on_cpu() -> None:
    """Have Accelerate take the host's DeepSpeed plugin in processes of one CPU group, too; it asks for accelerators."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def init(wrapped: Callable, state: Any, args: tuple, kwargs: dict) -> None:
        wrapped(*args, **kwargs)
        plugin = kwargs.get("deepspeed_plugin")
        if plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state._mixed_precision = DistributedType.DEEPSPEED, "no"
            plugin.set_mixed_precision(kwargs.get("mixed_precision"))  # as it does for accelerators
            plugin.select(_from_accelerator_state=True)
            state.deepspeed_plugins = plugin
            PartialState._shared_state["distributed_type"] = state.distributed_type

    around("accelerate.state", "AcceleratorState.__init__", init)
    # Its collectives in shared memory would be compiled first, for a minute; gloo has them too.
    around("deepspeed.comm.torch", "build_shm_op", lambda *_: None)


def note_weights() -> None:
    """DeepSpeed on the CPU where the run asks for it; weights, averages, and how the engine keeps them, each step."""
    on_cpu()

    def step(wrapped: Callable, ema: Any, args: tuple, kwargs: dict) -> Any:
        parameters = list(kwargs["parameters"])
        result = wrapped(*args, **kwargs | {"parameters": parameters})
        note(kind="weights", **described(parameters))
        note(kind="averages", **described(ema.shadow_params))
        if engines:
            note(kind="engine", **kept(engines[0], parameters))
        return result

    def initialize(wrapped: Callable, instance: None, args: tuple, kwargs: dict) -> Any:
        found = wrapped(*args, **kwargs)
        engines.append(found[0])
        return found

    engines: list[Any] = []
    around("deepspeed", "initialize", initialize)
    around("simpletuner.helpers.training.ema", "EMAModel.step", step)


def kept(engine: Any, parameters: list[Any]) -> dict[str, Any]:
    """Where the weights lie, how many of them in the engine's flat buffers, and its sizes: all, and this rank's own."""
    flat = engine.optimizer.bit16_groups_flat
    ends = [(it.data_ptr(), it.data_ptr() + it.numel() * it.element_size()) for it in flat]
    places = [it.data_ptr() for it in parameters]
    return {
        "stage": engine.zero_optimization_stage(),
        "places": places,
        "in_flat": sum(any(begin <= place < end for begin, end in ends) for place in places),
        "all": sum(it.numel() for it in flat),
        "own": sum(it.numel() for it in engine.optimizer.single_partition_of_fp32_groups),
    }
