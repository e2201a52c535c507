"""Which rank's draws a process makes: its own, or with context parallelism that of its group."""

from types import SimpleNamespace

import pytest
import torch

from simpletuner_twinflow.host.training.replicas import Replica


def accelerator(process, processes, size):
    """Of one of so many processes, as `configure_cp_only_accelerator` leaves it for groups of this size."""
    mesh = SimpleNamespace(get_group=lambda name: None, get_local_rank=lambda name: process % size)
    config = SimpleNamespace(dp_replicate_size=processes // size, dp_shard_size=1, cp_size=size, cp_enabled=size > 1)
    return SimpleNamespace(
        process_index=process, num_processes=processes, parallelism_config=config, torch_device_mesh=mesh
    )


@pytest.mark.parametrize(
    ("process", "processes", "size", "expected"),
    [
        (0, 1, 1, (0, 1, 1)),
        (3, 4, 1, (3, 4, 1)),  # data-parallel: each rank has data of its own
        (0, 2, 2, (0, 1, 2)),  # one group: both draw alike
        (1, 2, 2, (0, 1, 2)),
        (0, 4, 2, (0, 2, 2)),  # two groups of two neighbours
        (1, 4, 2, (0, 2, 2)),
        (2, 4, 2, (1, 2, 2)),
        (3, 4, 2, (1, 2, 2)),
        (5, 8, 4, (1, 2, 4)),
    ],
)
def test_processes_of_a_group_are_one_rank(process, processes, size, expected):
    assert Replica.of(accelerator(process, processes, size)) == expected


def test_a_run_that_knows_no_groups_is_ranked_by_process():
    plain = SimpleNamespace(process_index=1, num_processes=2)
    assert Replica.of(plain) == (1, 2, 1)


def test_of_what_all_processes_give_a_groups_rows_count_once():
    of_processes = [torch.full((3, 2), float(group)) for group in (0, 0, 1, 1)]
    kept = Replica(rank=1, ranks=2, size=2).one_of_each(torch.cat(of_processes))
    assert kept.tolist() == [[0.0, 0.0]] * 3 + [[1.0, 1.0]] * 3
    rows = torch.arange(6)
    assert Replica(rank=0, ranks=3, size=1).one_of_each(rows).equal(rows)
