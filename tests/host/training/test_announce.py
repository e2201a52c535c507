"""What a run says of its adapter at its start; the rest of the block is looked at in whole runs."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from simpletuner_twinflow.host.settings.summary import MORE_LAYERS
from simpletuner_twinflow.host.training.announce import adapted


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            [
                torch.nn.ModuleDict(
                    {
                        "to_q": torch.nn.Linear(4, 4),
                        "to_out": torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Dropout()]),
                        "ff": torch.nn.Linear(4, 4),
                        "gate": torch.nn.Linear(4, 4),
                    }
                )
                for _ in range(2)
            ]
        )
        self.last = torch.nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("modules", "words", "few"),
    [
        (["to_q", "to_out.0"], "4 of 9 linear layers (to_out.0, to_q)", True),
        (["to_q", "to_out.0", "ff"], "6 of 9 linear layers (ff, to_out.0, to_q)", False),
        ("all-linear", "9 of 9 linear layers (ff, gate, last, to_out.0, to_q)", False),
    ],
)
def test_adapted_layers_are_counted_and_few_of_them_are_remarked_on(modules, words, few):
    network = Network()
    if modules == "all-linear":
        modules = ["to_q", "to_out.0", "ff", "gate", "last"]
    network = inject_adapter_in_model(LoraConfig(r=2, target_modules=modules), network)
    assert adapted(network) == (f"{words}; {MORE_LAYERS}" if few else words)


def test_nothing_is_said_of_a_network_without_adapter():
    assert adapted(Network()) == ""
