"""Which data a process trains on: with context parallelism a group of processes trains on one batch together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Replica(NamedTuple):
    """A process's place among those that share the run's data.

    What is drawn by rank is drawn by `rank`: the processes of a group each hold a part of the same samples' tokens, so
    they have the same roles, noise and times, and make every pass together.
    """

    rank: int  # of the group, from 0
    ranks: int  # groups, each with data of its own
    size: int  # processes of a group; 1 without context parallelism

    @classmethod
    def of(cls, accelerator: Any) -> "Replica":
        """Of this process. Args: accelerator: of the host's trainer."""
        # Takes seconds, for which `doctor` would wait.
        from simpletuner.helpers.data_backend.runtime.context_parallel_sync import get_model_replica_data_info

        shared, rank, _, size, ranks = get_model_replica_data_info(accelerator)
        if shared:
            return cls(rank, ranks, size)
        return cls(int(accelerator.process_index), int(accelerator.num_processes), 1)

    def one_of_each(self, gathered: Tensor) -> Tensor:
        """The rows that were gathered of all processes, without the repetitions of a group's. Args: gathered: (N, ...).

        Returns: (N / size, ...), in the order of the groups.
        """
        return torch.cat(gathered.chunk(self.ranks * self.size)[:: self.size])
