import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method import teacher
from simpletuner_twinflow.method.teacher import RngState, replay_rng, teacher_weights


class Net(nn.Module):
    """A frozen layer, trained layers with dropout, and gradient checkpointing as an option."""

    def __init__(self, checkpointing=None):
        super().__init__()
        self.frozen = nn.Linear(4, 8).requires_grad_(False)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh())
        self.out = nn.Linear(8, 2)
        self.checkpointing = checkpointing

    def forward(self, x):
        h = self.frozen(x)
        if self.checkpointing and torch.is_grad_enabled():
            h = checkpoint(self.block, h.requires_grad_(), use_reentrant=self.checkpointing == "reentrant")
        else:
            h = self.block(h)
        return self.out(h)

    def trained(self):
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def shadows_of(net, dtype=torch.float32):
    return [torch.randn_like(parameter, dtype=dtype) for parameter in net.trained()]


def state_of(net):
    return [(id(p), p.data_ptr(), p._version, p.detach().clone()) for p in net.parameters()]


def same_state(before, after):
    return all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def test_inside_the_network_runs_on_the_shadows_and_outside_on_its_own_weights():
    net = Net().eval()
    shadows, before, x = shadows_of(net), state_of(net), torch.randn(3, 4)
    averaged = copy.deepcopy(net)
    for parameter, shadow in zip(averaged.trained(), shadows, strict=True):
        parameter.data.copy_(shadow)
    own = net(x)
    with teacher_weights(net.trained(), shadows), torch.no_grad():
        assert torch.equal(net(x), averaged(x))
    assert torch.equal(net(x), own)
    assert same_state(before, state_of(net))


def test_pointers_move_and_nothing_is_copied():
    net = Net()
    shadows, frozen = shadows_of(net), net.frozen.weight.data_ptr()
    values = [shadow.clone() for shadow in shadows]
    with teacher_weights(net.trained(), shadows):
        assert [p.data_ptr() for p in net.trained()] == [shadow.data_ptr() for shadow in shadows]
        assert net.frozen.weight.data_ptr() == frozen
    assert all(torch.equal(shadow, value) for shadow, value in zip(shadows, values, strict=True))


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_shadows_of_another_dtype_are_cast_and_stay_what_they_were(weights):
    net = Net().to(weights)
    shadows = shadows_of(net, torch.float64)
    with teacher_weights(net.trained(), shadows):
        for parameter, shadow in zip(net.trained(), shadows, strict=True):
            assert parameter.dtype == weights
            assert torch.equal(parameter, shadow.to(weights))
    assert {shadow.dtype for shadow in shadows} == {torch.float64}


def test_an_exception_brings_the_weights_back_too():
    net = Net()
    before = state_of(net)
    with pytest.raises(ZeroDivisionError), teacher_weights(net.trained(), shadows_of(net)):
        1 / 0  # noqa: B018
    assert same_state(before, state_of(net))
    with teacher_weights(net.trained(), shadows_of(net)):
        pass  # and they can be swapped again


def test_a_swap_that_fails_half_way_is_undone():
    net = Net()
    before, shadows = state_of(net), shadows_of(net)
    shadows[-1] = shadows[-1].to_sparse()
    with pytest.raises(RuntimeError), teacher_weights(net.trained(), shadows):
        pass
    assert same_state(before, state_of(net))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shadows: shadows[:-1], "5 shadow tensors for 6 trainable"),
        (lambda shadows: [*shadows, shadows[0]], "7 shadow tensors for 6 trainable"),
        (lambda shadows: shadows[::-1], "Shadow 0 has shape \\(2,\\), its parameter \\(8, 8\\)"),
    ],
    ids=["too few", "too many", "another order"],
)
def test_shadows_of_other_parameters_are_refused_before_anything_moves(change, words):
    net = Net()
    before = state_of(net)
    with pytest.raises(TwinFlowError, match=words), teacher_weights(net.trained(), change(shadows_of(net))):
        pytest.fail("the block ran")
    assert same_state(before, state_of(net))


def test_nesting_is_refused_and_leaves_the_outer_swap_in_place():
    net = Net()
    before, shadows = state_of(net), shadows_of(net)
    with teacher_weights(net.trained(), shadows):
        with pytest.raises(TwinFlowError, match="does not nest"), teacher_weights(net.trained()[-1:], shadows[-1:]):
            pytest.fail("the block ran")
        assert net.trained()[-1].data_ptr() == shadows[-1].data_ptr()
        other = Net()
        with teacher_weights(other.trained(), shadows_of(other)):
            pass  # another network's weights are another matter
    assert same_state(before, state_of(net))


def test_a_parameter_named_twice_is_refused():
    net = Net()
    weight = net.out.weight
    with pytest.raises(TwinFlowError, match="named once"), teacher_weights([weight, weight], [weight, weight]):
        pytest.fail("the block ran")


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["shared shadows", "cast shadows"])
def test_a_teacher_pass_between_forward_and_backward_changes_no_gradient(checkpointing, dtype):
    x, target = torch.randn(5, 4), torch.randn(5, 2)

    def gradients(with_teacher):
        torch.manual_seed(3)
        net = Net(checkpointing)
        shadows = shadows_of(net, dtype)
        rng = RngState.capture()
        prediction = net(x)
        if with_teacher:
            with teacher_weights(net.trained(), shadows), replay_rng(rng), torch.no_grad():
                net(x)
        (prediction - target).square().mean().backward()
        return [parameter.grad for parameter in net.trained()], torch.rand(3)

    plain, taught = gradients(False), gradients(True)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], taught[0], strict=True))
    assert torch.equal(plain[1], taught[1])  # the stream goes on as if there had been no teacher


def test_the_optimizer_goes_on_with_the_students_weights():
    net = Net()
    optimizer, shadows = torch.optim.SGD(net.trained(), lr=0.1), shadows_of(net)
    values = [parameter.detach().clone() for parameter in net.trained()]
    loss = net(torch.randn(3, 4)).square().mean()
    with teacher_weights(net.trained(), shadows):
        pass
    loss.backward()
    optimizer.step()
    for parameter, value in zip(net.trained(), values, strict=True):
        torch.testing.assert_close(parameter.detach(), value - 0.1 * parameter.grad)


def test_student_and_teacher_draw_the_same_dropout_mask():
    rng = RngState.capture("cpu")
    mask = dropout(torch.ones(1000), 0.5)
    with replay_rng(rng):
        assert torch.equal(dropout(torch.ones(1000), 0.5), mask)
    with replay_rng(rng):
        assert torch.equal(dropout(torch.ones(1000), 0.5), mask)
    assert not torch.equal(dropout(torch.ones(1000), 0.5), mask)


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
def test_the_stream_outside_a_replay_is_undisturbed(fails):
    rng = RngState.capture()
    torch.rand(5)
    expected = torch.get_rng_state()
    try:
        with replay_rng(rng):
            torch.rand(17)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert torch.equal(torch.get_rng_state(), expected)


def test_replays_nest_each_on_its_own_stream():
    first = RngState.capture()
    one = torch.rand(2)
    second = RngState.capture()
    two = torch.rand(2)
    with replay_rng(first):
        with replay_rng(second):
            assert torch.equal(torch.rand(2), two)
        assert torch.equal(torch.rand(2), one)


@pytest.mark.parametrize("device", ["cuda:1", "xpu:0", "mps"])
def test_the_streams_of_the_accelerators_named_are_replayed_and_put_back(device, monkeypatch):
    # There is no accelerator here; the module of one is stood in for by the two functions that are called.
    class Module:
        state = torch.tensor([1])

        @classmethod
        def get_rng_state(cls, *which):
            assert which == (() if device == "mps" else (torch.device(device),))
            return cls.state

        @classmethod
        def set_rng_state(cls, state, *which):
            assert which == (() if device == "mps" else (torch.device(device),))
            cls.state = state

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    rng = RngState.capture(device)
    Module.state = torch.tensor([2])
    with replay_rng(rng):
        assert Module.state.item() == 1
        Module.state = torch.tensor([3])
    assert Module.state.item() == 2


@pytest.fixture
def one_rank():
    """A process group of this process alone, in which a tensor can be sharded."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("which", ["parameter", "shadow"])
def test_a_sharded_parameter_and_a_whole_shadow_are_refused_even_where_the_shard_is_all_of_it(which, one_rank):
    whole = torch.ones(2, 3)
    sharded = torch.distributed.tensor.distribute_tensor(whole, one_rank, [torch.distributed.tensor.Shard(0)])
    parameter, shadow = (sharded, whole) if which == "parameter" else (whole, sharded)
    with pytest.raises(TwinFlowError, match="not sharded alike"), teacher_weights([nn.Parameter(parameter)], [shadow]):
        pass


def test_a_network_of_which_a_part_alone_is_sharded_gathers_anew_around_the_block(monkeypatch):
    net, calls = Net(), []
    parameters, shadows = net.trained(), shadows_of(net)
    first = {id(parameters[0]), id(shadows[0])}
    monkeypatch.setattr(teacher, "is_sharded", lambda it: id(it) in first)
    monkeypatch.setattr(teacher, "reshard", calls.append)
    own = parameters[0].detach().clone()
    with teacher.lent_weights(net, parameters, shadows):
        assert calls == [net]
        assert torch.equal(parameters[0], shadows[0])
    assert calls == [net, net]
    assert torch.equal(parameters[0], own)
