"""A LoRA's file is the whole change of the untouched base, for every way in which the host starts and scales it."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from simpletuner.simpletuner_sdk.server.services.field_registry.registry import field_registry
from torch import nn

from simpletuner_twinflow import TwinFlowOptions
from simpletuner_twinflow.host.checkpoints.adapter_file import described, taken_from_base, whole_change
from simpletuner_twinflow.host.settings.conflicts import conflicts
from tests.runs.harness import SEED

LINEAR = ["wide", "tall", "small"]
ADAPTERS = {
    "default": {"r": 4, "lora_alpha": 4},
    "alpha": {"r": 4, "lora_alpha": 16},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"wide": 2}, "alpha_pattern": {"wide": 7, "tall": 1}},
    "gaussian": {"r": 4, "lora_alpha": 8, "init_lora_weights": "gaussian"},
    "pissa": {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"},
    "olora": {"r": 4, "lora_alpha": 8, "init_lora_weights": "olora"},
    "pissa and patterns": {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa", "rank_pattern": {"tall": 5}},
    "convolution": {"r": 4, "lora_alpha": 2, "target_modules": [*LINEAR, "grid"]},
}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.tall, self.small = nn.Linear(12, 6), nn.Linear(6, 20), nn.Linear(20, 3)  # one below the rank
        self.grid = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        hidden = self.small(torch.tanh(self.tall(torch.tanh(self.wide(x)))))
        return self.grid(hidden.reshape(-1, 3, 1, 1).expand(-1, 3, 4, 4))


def trained(settings):
    """The untouched base, the network with an adapter that has been trained, and what its start took from the base."""
    base = Network()
    network = inject_adapter_in_model(LoraConfig(**{"target_modules": LINEAR} | settings), copy.deepcopy(base))
    taken = taken_from_base(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return base, network, taken


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_reader_without_a_header_that_adds_b_a_to_the_base_has_the_trained_network(settings):
    base, network, taken = trained(settings)
    x = torch.randn(7, 12)
    expected, before = network(x), base(x)
    weights = whole_change(network, get_peft_model_state_dict(network), taken)
    ranks = set()
    with torch.no_grad():
        for key, down in weights.items():
            if key.endswith("lora_A.weight"):
                name, up = key.removesuffix(".lora_A.weight"), weights[key.replace("lora_A", "lora_B")]
                layer = base.get_submodule(name)
                layer.weight += (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
                ranks.add(down.shape[0])
    torch.testing.assert_close(base(x), expected)
    assert (before - expected).abs().max() > 0.1
    assert len(ranks) == 1  # so that no reader can take one layer's scale for another's


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_reader_of_the_header_has_the_trained_network_too(settings):
    base, network, taken = trained(settings)
    weights = whole_change(network, get_peft_model_state_dict(network), taken)
    header = described(network, weights)
    assert header["r"] == header["lora_alpha"]
    assert header["init_lora_weights"] is True
    config = LoraConfig(**header)
    loaded = inject_adapter_in_model(config, base, state_dict=weights)
    missing = loaded.load_state_dict(
        {key.replace(".weight", ".default.weight"): weight for key, weight in weights.items()}, strict=False
    )
    assert not missing.unexpected_keys
    x = torch.randn(7, 12)
    torch.testing.assert_close(loaded(x), network(x))


def test_every_start_that_the_host_offers_is_trained_here_or_refused():
    offered = {choice["value"] for choice in field_registry.get_field("lora_init_type").choices}
    refused = {value for value in offered if problem({"lora_init_type": value})}
    assert refused == {"loftq"}
    assert offered - refused <= ADAPTERS.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_init_type": "loftq"}, 'lora_init_type is "loftq"'),
        ({"use_dora": True}, "use_dora is true"),
        ({"lora_init_type": "pissa", "base_model_precision": "int8-quanto"}, 'base_model_precision "int8-quanto"'),
        ({"lora_init_type": "olora", "init_lora": "other.safetensors"}, 'init_lora "other.safetensors"'),
    ],
)
def test_start_whose_file_could_not_mean_what_was_trained_is_refused_with_a_way_out(change, words):
    found = problem(change)
    assert words in found
    assert "Way out: " in found
    assert "\n" not in found


def problem(change) -> str:
    config = SEED | {"model_type": "lora", "base_model_precision": "no_change"} | change
    return "\n".join(conflicts(config, TwinFlowOptions.from_mapping(config)))
