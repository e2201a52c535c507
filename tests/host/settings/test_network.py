"""A network's size from its files, against the module that is loaded from them."""

import diffusers
import pytest
import torch
from torch import nn

from simpletuner_twinflow.host.settings.network import ATTENTION, described, network_of
from testbed.activations import ARCHITECTURES, prepared
from testbed.pipelines import SD3


def of(module):
    return described({name: list(it.shape) for name, it in module.state_dict().items()}, dict(module.config))


def test_files_and_module_say_the_same():
    module = diffusers.SD3Transformer2DModel.from_pretrained(SD3 / "transformer")
    assert network_of({"pretrained_model_name_or_path": str(SD3)}) == of(module)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_blocks_width_and_adapter(name):
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        module = architecture.build()
        found = of(module)
        adapter = [it for key, it in prepared(module, "lora").named_parameters() if "lora_" in key]
    assert (found.blocks, found.width) == (architecture.blocks, architecture.width)
    assert 16 * found.adapted == sum(it.numel() for it in adapter)
    assert found.dual == (name == "SD3.5-medium")


def test_layers_that_the_user_names():
    some = network_of({"pretrained_model_name_or_path": str(SD3), "peft_lora_target_modules": '["to_k"]'})
    module = diffusers.SD3Transformer2DModel.from_pretrained(SD3 / "transformer")
    layers = [it for name, it in module.named_modules() if isinstance(it, nn.Linear) and name.endswith(".to_k")]
    assert some.adapted == sum(layer.in_features + layer.out_features for layer in layers)
    assert "to_k" in ATTENTION


def test_of_a_model_that_is_not_here_or_is_damaged_nothing_is_known(tmp_path):
    assert network_of({"pretrained_model_name_or_path": "somebody/a-model"}) is None
    assert network_of({}) is None
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/model.safetensors").write_bytes(b"cut")
    assert network_of({"pretrained_model_name_or_path": str(tmp_path)}) is None
