"""Sharded weights: two ranks on the CPU lend their shards to a teacher, by torch's own FSDP2 and the host's own EMA."""

import torch
import torch.multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard

from simpletuner_twinflow.method.sharding import gathered, is_sharded, like_sharded, own_shard, reshard
from simpletuner_twinflow.method.teacher import lent_weights
from tests.runs.harness import free_port

SIZE = 5  # rows of a weight: two ranks have shards of different sizes


class Net(nn.Module):
    """A block that FSDP2 wraps, and weights beside it, which stay gathered after a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.block(x).sin())


def made(seed: int) -> Net:
    torch.manual_seed(seed)
    return Net()


def on_rank(rank: int, port: int) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    net, shadows = made(0), [*made(1).parameters()]
    fully_shard(net.block)
    fully_shard(net)
    x = torch.linspace(-1, 1, 3 * SIZE).reshape(3, SIZE) + rank
    spread = [like_sharded(whole.detach(), it) for whole, it in zip(shadows, net.parameters(), strict=True)]
    assert all(is_sharded(it) for it in spread)
    assert all(gathered(it).equal(whole) for it, whole in zip(spread, shadows, strict=True))
    assert len(own_shard(spread[0])) == (3, 2)[rank]

    student = net(x)
    reshard(net)
    parameters = [*net.parameters()]
    before = [own_shard(it).clone() for it in parameters]
    for _ in range(2):
        with lent_weights(net, parameters, spread), torch.no_grad():
            torch.testing.assert_close(net(x), made(1)(x))
        assert all(own_shard(it).equal(was) for it, was in zip(parameters, before, strict=True))
    beside, other = torch.nn.Parameter(torch.ones(2)), torch.full((2,), 5.0)  # not sharded, as beside an adapter
    with lent_weights(net, [*parameters, beside], [*spread, other]), torch.no_grad():
        torch.testing.assert_close(net(x), made(1)(x))
        assert beside.equal(other)
    assert beside.equal(torch.ones(2))
    student.square().sum().backward()  # of the student's pass, which is older than the teacher's

    alone = made(0)
    losses = [alone(torch.linspace(-1, 1, 3 * SIZE).reshape(3, SIZE) + other).square().sum() for other in range(2)]
    (sum(losses) / 2).backward()
    for sharded, whole in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(gathered(sharded.grad), whole.grad)
    with torch.no_grad():
        torch.testing.assert_close(net(x), made(0)(x))
    torch.distributed.destroy_process_group()


def test_two_ranks_lend_their_own_shards_and_train_as_one_process():
    torch.multiprocessing.spawn(on_rank, (free_port(),), nprocs=2)


def test_other_weights_are_left_as_they_are():
    net = made(0)
    weight = net.last.weight
    assert not is_sharded(weight)
    assert own_shard(weight).data_ptr() == gathered(weight).data_ptr() == weight.data_ptr()
    reshard(net)
    assert net.last.weight is weight


def test_where_torch_has_nothing_distributed_no_weight_is_sharded(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    weight = made(0).last.weight
    assert is_sharded(weight) is False
    assert own_shard(weight).data_ptr() == gathered(weight).data_ptr() == weight.data_ptr()
    reshard(made(0))
