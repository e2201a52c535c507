"""The objective through each family's own classes: exact networks have no loss, tiny random ones train."""

import pytest
import torch

from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.method.objective import ObjectiveSettings
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import PROMPTS, host_batch, host_model
from testbed.host_models.oracle import install
from testbed.host_models.zoo import ZOO
from tests.host.steps import losses_of

TERMS = {"rcgm", "real_velocity", "adversarial", "rectify"}
families = pytest.mark.parametrize("family", ZOO)


@families
@pytest.mark.parametrize("ratio", [0.0, 0.5], ids=["no guidance", "guidance"])
def test_exact_network_has_no_loss(family, ratio, folder):
    """Guidance moves the target off the data: to where data = (1 - ratio) x prompted + ratio x unprompted."""
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model, PROMPTS * 2, latent=0.6)
    data = batch["latents"].flatten()[0].item()
    install(model.model, ZOO[family], prompted=(data + 0.4 * ratio) / (1 - ratio), unprompted=-0.4)
    options = ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=ratio, guidance_reference="ema")
    losses = losses_of(adapter, batch, options)
    assert losses.terms.keys() == TERMS
    for name, term in losses.terms.items():
        assert term.total.item() / term.rows < 1e-6, name


@families
def test_losses_and_gradients_are_finite_in_bf16(family, folder):
    model = host_model(family, folder, dtype=torch.bfloat16)
    model.model.forward = torch.autocast("cpu", torch.bfloat16)(model.model.forward)  # as accelerate prepares a network
    adapter = family_model_of(model)
    batch = host_batch(model, PROMPTS * 2)
    losses = losses_of(adapter, batch, ObjectiveSettings(adversarial_enabled=True, guidance_reference="ema"))
    assert losses.total.dtype == torch.float32
    assert losses.total.isfinite()
    losses.total.backward()
    gradients = {name: weight.grad for name, weight in model.model.named_parameters() if weight.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["twinflow_target_time.linear_2.weight"].abs().max() > 0


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.lora])
def test_conditioning_is_trained_beside_a_lora(family, folder):
    """The host's own adapter, as the trainer adds it after the modules and before they are made trainable again."""
    model = host_model(family, folder, model_type="lora", lora_rank=2)
    adapter = family_model_for(model)
    adapter.attach_time_conditioning()
    model.model.requires_grad_(False)
    model.add_lora_adapter()
    adapter.train_time_conditioning()
    batch = host_batch(model, PROMPTS * 2)
    losses_of(adapter, batch, ObjectiveSettings(adversarial_enabled=True, guidance_reference="ema")).total.backward()
    trained = {name for name, weight in model.model.named_parameters() if weight.requires_grad}
    conditioning = {f"{name}." for name in adapter.time_conditioning_modules()}
    assert {name for name in trained if "lora" not in name} == {
        name for name in trained if any(name.startswith(module) for module in conditioning)
    }
    moved = {name for name, weight in model.model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any("lora_B" in name for name in moved)
    assert all(any(name.startswith(module) for name in moved) for module in conditioning)
