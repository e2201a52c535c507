"""The modules that only training needs: silent in the sampler's steps, and out of PEFT's reach."""

from itertools import pairwise

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from simpletuner.helpers.training.trainer import Trainer

from simpletuner_twinflow import TwinFlowError
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.host.training.time_conditioning import each_sample_at, hidden
from simpletuner_twinflow.method.time_conditioning import Times
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
@pytest.mark.parametrize("name", ["sd3", "omnigen", "cosmos3"])  # the batches of the last two hold 1 - t
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


@pytest.mark.parametrize("changed", ["t", "r", "sign"])
@torch.no_grad()
def test_sample_of_a_network_that_takes_one_at_a_time_has_its_own_times_and_no_others(changed, folder):
    family_model = family_model_of(host_model("cosmos3", folder))
    for parameter in family_model.time_conditioning_parameters().values():
        torch.nn.init.normal_(parameter)
    batch = host_batch(family_model.model)
    times = {"t": [0.9, 0.8, 0.7, 0.6], "r": [0.1, 0.3, 0.2, 0.4], "sign": [1.0, -1.0, 1.0, -1.0]}
    others = {"t": 0.5, "r": 0.05, "sign": 1.0}

    def passed(given):
        there = family_model.at(batch, batch["noisy_latents"], *(torch.tensor(values) for values in given.values()))
        return family_model.velocity(family_model.model.model_predict(prepared_batch=dict(there)), there)

    before = passed(times)
    row = 3
    times[changed][row] = others[changed]
    differences = (passed(times) - before).flatten(1).abs().amax(dim=1)
    assert differences[row] > 1e-4
    assert differences[:row].max() == 0


@pytest.mark.parametrize(("samples", "said"), [(3, "left out 1 of the 4"), (5, "more samples than the 4")])
def test_host_that_predicts_another_number_of_samples_is_refused(samples, said, folder):
    model = host_model("cosmos3", folder)
    family_model = family_model_of(model)
    times = Times(*(torch.full((4,), value) for value in (0.8, 0.4, 1.0)))
    model._predict_single_sample = lambda **given: None

    def predict():
        with each_sample_at(model, family_model.time_conditioning, times):
            for _ in range(samples):
                model._predict_single_sample()

    with pytest.raises(TwinFlowError, match=said):
        predict()


def test_batch_with_sound_is_not_trained_on_in_silence(folder):
    family_model = family_model_of(host_model("cosmos3", folder))
    batch = host_batch(family_model.model) | {"audio_latents": torch.zeros(4, 1)}
    with pytest.raises(TwinFlowError, match="audio_latents"):
        velocity(family_model, batch, 0.8, 0.4)
    with pytest.raises(TwinFlowError, match="audio_latents"):
        family_model.at_own_times(batch)


@torch.no_grad()
def test_evaluation_of_a_family_that_the_host_trains_backwards_asks_at_the_networks_own_time(folder):
    family_model = family_model_of(host_model("cosmos3", folder))
    batch = host_batch(family_model.model)
    share_of_noise = (batch["noisy_latents"] - batch["latents"]) / (batch["noise"] - batch["latents"])
    t = share_of_noise.flatten(1).median(dim=1).values
    torch.testing.assert_close(family_model.at_own_times(batch)["timesteps"], 1000 * t, rtol=1e-3, atol=1e-2)
