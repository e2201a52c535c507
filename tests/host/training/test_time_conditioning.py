"""The modules that only training needs: silent in the sampler's steps, and out of PEFT's reach."""

from itertools import pairwise

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.host.training.time_conditioning import hidden
from testbed.host_models.build import family_model_of
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


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["sd3", "omnigen"])  # omnigen's batch holds 1 - t
@torch.no_grad()
def test_trained_modules_are_silent_in_each_of_the_samplers_steps_and_heard_elsewhere(name, dtype, steps, folder):
    model = host_model(name, folder, dtype=dtype, twinflow_target_step_count=steps)
    if dtype is torch.bfloat16:
        model.model.forward = torch.autocast("cpu", dtype)(model.model.forward)  # as accelerate prepares a network
    family_model = family_model_of(model)
    for parameter in family_model.time_conditioning_parameters().values():
        torch.nn.init.normal_(parameter)
    batch = host_batch(model)
    for t, r in pairwise((*family_model.step_times, 0.0)):
        with_modules = velocity(family_model, batch, t, r)
        without = velocity(family_model, batch, t, r, modules=False)
        assert torch.equal(with_modules, without) or name == "omnigen"
        torch.testing.assert_close(with_modules, without)
        assert not torch.allclose(velocity(family_model, batch, t, 0.9 * r + 0.1 * t), without, atol=1e-2)
        assert not torch.allclose(velocity(family_model, batch, t, r, -1), without, atol=1e-2)
