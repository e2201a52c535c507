"""PEFT adapts the network that was pre-trained, and never the modules that only training needs."""

import pytest
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.host.training.time_conditioning import hidden
from testbed.host_models.flow import host_batch, host_model
from tests.host.steps import velocity


def adapted(folder, targets, **changes):
    """A model with an adapter made by the host's own method, and its conditioning."""
    model = host_model("sd3", folder, model_type="lora", lora_dropout=0.0, **changes)
    if targets is not None:
        model.get_lora_target_layers = lambda: targets  # what the host's parser cannot give: a text
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.model, trainer.accelerator = model.config, model, model.accelerator
    trainer.webhook_handler = None
    model.model.requires_grad_(False)
    trainer.twinflow_model = model.twinflow_model = family_model_for(model)
    trainer.twinflow_model.attach_time_conditioning()
    trainer.init_trainable_peft_adapter()
    return model, trainer.twinflow_model


@pytest.mark.parametrize(
    "targets",
    [
        ["linear_1"],
        ["linear_1", "linear_2"],
        ["twinflow_target_time.linear_1", "to_q"],
        ["twinflow_negative_time", "to_q"],
        "all-linear",
        r".*linear_\d",
        ".*(twinflow|to_q).*",
    ],
    ids=str,
)
def test_no_target_reaches_the_modules_of_training(targets, folder):
    model, adapter = adapted(folder, targets)
    modules = adapter.time_conditioning_modules()
    assert set(modules) == {"twinflow_target_time", "twinflow_negative_time"}
    for module in modules.values():
        assert not any(isinstance(part, BaseTunerLayer) for part in module.modules())
        assert all(weight.requires_grad for weight in module.parameters())
    saved = get_peft_model_state_dict(model.model)
    assert saved
    assert not [key for key in saved if "twinflow" in key]


def test_targets_of_a_users_config_are_as_safe(folder):
    model, adapter = adapted(folder, None, peft_lora_target_modules=["linear_1"])
    assert model.config.peft_lora_target_modules == ["linear_1"]
    saved = get_peft_model_state_dict(model.model)
    assert {key.rsplit(".lora_")[0] for key in saved} >= {"time_text_embed.timestep_embedder.linear_1"}
    assert not [key for key in saved if "twinflow" in key]
    batch = host_batch(model)
    velocity(adapter, batch, 0.8, 0.4, -1).square().mean().backward()
    assert adapter.time_conditioning_modules()["twinflow_target_time"].linear_2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["sd3", "hidream", "krea2"])
def test_hidden_modules_come_back_to_their_places(name, folder):
    model = host_model(name, folder)
    adapter = family_model_for(model)
    adapter.attach_time_conditioning()
    order = [key for key, _ in model.model.named_parameters()]
    modules = adapter.time_conditioning_modules()
    own = {id(weight) for module in modules.values() for weight in module.parameters()}
    with hidden(model.model, modules):
        assert not own & {id(weight) for weight in model.model.parameters()}
    assert [key for key, _ in model.model.named_parameters()] == order
    assert all(model.model.get_submodule(key) is module for key, module in modules.items())
