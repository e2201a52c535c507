"""A LyCORIS network: what is trained, in which order, and when multiplier 0 is the base."""

from types import SimpleNamespace

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from torch import nn

from simpletuner_twinflow.host.training.lycoris import (
    EXPORT,
    as_plain,
    returns_to_base,
    switched_off,
    train_beside,
    trained_parameters,
)
from simpletuner_twinflow.host.training.time_conditioning import NEGATIVE_TIME, TARGET_TIME

ALGORITHMS = ("lora", "locon", "loha", "lokr", "dylora", "glora", "full", "diag-oft", "boft", "ia3")
OPTIONS = ({}, {"dora_wd": True}, {"bypass_mode": True}, {"train_norm": True}, {"use_scalar": True}, {"rescaled": True})
NOT_OF_LYCORIS = [("full", "bypass_mode"), ("diag-oft", "bypass_mode")]  # which it refuses itself
KINDS = [(algorithm, given) for algorithm in ALGORITHMS for given in OPTIONS]
KINDS = [(algorithm, given) for algorithm, given in KINDS if (algorithm, *given) not in NOT_OF_LYCORIS]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 16)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


@pytest.fixture
def make(monkeypatch):
    """Makes networks with a LyCORIS network of these settings, all of its weights moved away from its start."""
    monkeypatch.setattr(LycorisNetwork, "TARGET_REPLACE_MODULE", ["Network"])  # a preset is of the class

    def made(**settings):
        torch.manual_seed(0)
        network = Network()
        before = network(torch.ones(3, 16)).detach()
        preset = {"target_module": ["Network"]}
        monkeypatch.setattr("lycoris.wrapper.PRESET", {"full": preset})
        lycoris = create_lycoris(network, 1.0, 4, 1, warn_on_unmatched=False, **settings)
        assert lycoris.loras
        lycoris.apply_to()
        with torch.no_grad():
            for parameter in lycoris.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return network, lycoris, before

    return made


@pytest.mark.parametrize(("algorithm", "given"), KINDS, ids=lambda value: "+".join(value) or "plain")
def test_it_is_known_which_networks_are_the_base_to_the_bit_when_switched_off(algorithm, given, make):
    network, lycoris, before = make(algo=algorithm, **given)
    trained = network(torch.ones(3, 16))
    assert (trained - before).abs().max() > 0.01
    with switched_off(lycoris):
        assert torch.equal(network(torch.ones(3, 16)), before) is returns_to_base(lycoris)
    assert torch.equal(network(torch.ones(3, 16)), trained)


def test_without_one_nothing_is_switched_off():
    with switched_off(None):
        pass


def model_of(network, lycoris=None):
    accelerator = SimpleNamespace(_lycoris_wrapped_network=lycoris)
    return SimpleNamespace(accelerator=accelerator, get_trained_component=lambda unwrap_model: network)


def test_trained_are_the_adapters_parameters_and_the_time_conditioning_as_the_host_lists_them(make):
    network, lycoris, _ = make(algo="lokr")
    network.requires_grad_(False)
    modules = {TARGET_TIME: nn.Linear(2, 2), NEGATIVE_TIME: nn.Embedding(2, 2)}
    for name, module in modules.items():
        network.add_module(name, module)
    train_beside(lycoris, modules)
    trained = trained_parameters(model_of(network, lycoris))
    assert [id(it) for it in trained.values()] == [id(it) for it in lycoris.parameters()]
    network.add_module("lycoris_wrapped_network", lycoris)  # as the host does when it prepares the network
    named = dict(network.named_parameters())
    assert all(named[name] is parameter for name, parameter in trained.items())
    assert {f"{TARGET_TIME}.weight", f"{TARGET_TIME}.bias", f"{NEGATIVE_TIME}.weight"} <= trained.keys()


def test_without_one_the_networks_own_parameters_are_trained():
    network = Network()
    network.last.requires_grad_(False)
    assert [*trained_parameters(model_of(network))] == ["first.weight", "first.bias", "norm.weight", "norm.bias"]


def test_as_a_plain_runs_it_has_neither_our_modules_nor_our_export_for_a_while(make):
    _, lycoris, _ = make(algo="lokr")
    plain = [*lycoris.state_dict()]
    train_beside(lycoris, {TARGET_TIME: nn.Linear(2, 2)})
    setattr(lycoris, EXPORT, print)
    order = [name for name, _ in lycoris.named_parameters()]
    with as_plain(lycoris):
        assert [*lycoris.state_dict()] == plain
        assert not hasattr(lycoris, EXPORT)
    assert [name for name, _ in lycoris.named_parameters()] == order
    assert getattr(lycoris, EXPORT) is print
