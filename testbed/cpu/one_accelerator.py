"""For machines without an accelerator only: diffusers sets context parallelism up for accelerators alone.

Here it finds one of them, the CPU, where it asks which one a process has, and where processes tell their sizes.
"""

from typing import Any
from unittest.mock import patch


def stand_in() -> None:
    """Make the exchanges in this process."""
    import torch
    import torch.distributed as dist
    from diffusers.hooks import context_parallel
    from diffusers.models import _modeling_parallel, attention_dispatch
    from diffusers.models.modeling_utils import ModelMixin

    resolve = ModelMixin._resolve_parallel_config

    def on_cpu(network: Any, config: Any) -> Any:
        with patch.object(torch.accelerator, "device_count", lambda: 1):
            return resolve(network, config)

    def sizes(size: int, group: Any) -> list[int]:
        found = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
        dist.all_gather(found, torch.tensor([size]), group=group)
        return [int(each) for each in found]

    ModelMixin._resolve_parallel_config = on_cpu
    for module in (context_parallel, _modeling_parallel, attention_dispatch):
        module.gather_size_by_comm = sizes
