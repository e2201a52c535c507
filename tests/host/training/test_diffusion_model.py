"""The host's epsilon and v models through our adapter: real classes, real batches, tiny networks."""

from pathlib import Path

import pytest
import torch

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.method.flow import interpolate
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from testbed.host_models.build import family_model_of
from testbed.host_models.diffusion import MODELS, host_batch, host_model
from testbed.host_models.diffusion_oracle import install_oracle
from tests.host import steps
from tests.host.steps import losses_of
from tests.method.oracles import GaussianFlow
from tests.sampling.diffusion_oracles import DiffusionOracle

SAMPLE = Path(__file__).parents[3] / "sample_configs/sdxl-diff2flow-twinflow.json"
OPTIONS = ObjectiveSettings(adversarial_enabled=True, guidance_reference="ema")
models = pytest.mark.parametrize("name", MODELS)
pytestmark = pytest.mark.usefixtures("in_folder")


def made(name, folder, **changes):
    model = host_model(name, folder, **changes)
    return model, family_model_of(model), host_batch(model, name)


def velocity(family_model, batch, t, r, sign=1.0):
    """The velocity on the way from the batch's latents to its noise."""
    x_t = interpolate(batch["latents"], batch["noise"], torch.full((8,), float(t))).x_t
    return steps.velocity(family_model, batch, t, r, sign, x_t)


@models
def test_the_hosts_own_batch_is_on_the_flows_path_at_its_sigma(name, folder):
    _, adapter, batch = made(name, folder)
    t = adapter.sigma(batch)
    x_t = interpolate(batch["latents"], batch["noise"], t).x_t
    assert t.dtype == torch.float32
    torch.testing.assert_close(flow_state(batch["noisy_latents"], t), x_t, rtol=0, atol=2e-5)
    there = adapter.at(batch, x_t, t, t, torch.ones_like(t))
    torch.testing.assert_close(there["noisy_latents"], batch["noisy_latents"], rtol=0, atol=2e-5)
    torch.testing.assert_close(there["timesteps"], batch["timesteps"].float(), rtol=0, atol=2e-3)
    assert torch.equal(adapter.sigma(there), t)


@models
def test_the_schedule_and_the_prediction_are_those_the_host_trains(name, folder):
    model, adapter, _ = made(name, folder)
    assert adapter.path.prediction_type == MODELS[name].kind == model.config.prediction_type
    assert (model.noise_schedule.alphas_cumprod[-1] == 0) == (name == "sd1x v zero snr")
    assert adapter.path.sigma_max == pytest.approx(
        {"sd1x v zero snr": 1.0, "pixart": 0.99369, "kolors": 0.96673}.get(name, 0.93596), abs=1e-5
    )


@models
def test_every_loss_of_an_exact_network_is_zero(name, folder):
    model, adapter, batch = made(name, folder)
    point = 0.7
    batch = host_batch(model, name, latent=point)
    oracle = DiffusionOracle(GaussianFlow(mean=point, std=0.0), MODELS[name].kind)
    calls = install_oracle(model, lambda x, abar: oracle(x, abar.clamp(max=1 - 1e-6)))
    losses = losses_of(adapter, batch, OPTIONS, seed=2)  # a seed without a time below the model's first one
    assert set(losses.terms) == {"rcgm", "real_velocity", "adversarial", "rectify"}
    for term, loss in losses.terms.items():
        assert float(loss.total) < 2e-4, term
    assert len(calls) > 5
    for call in calls:
        assert call["timestep"].dtype == torch.float32
        assert (call["timestep"] >= 0).all()
        assert (call["timestep"] <= adapter.path.last_time).all()


@models
@torch.no_grad()
def test_an_exact_network_for_gaussian_data_gives_the_exact_velocity(name, folder):
    model, adapter, batch = made(name, folder)
    flow = GaussianFlow(mean=0.3, std=0.6)
    install_oracle(model, DiffusionOracle(flow, MODELS[name].kind))
    t = torch.linspace(0.05, min(adapter.path.sigma_max, 0.96), 8)
    x_t = interpolate(0.3 + 0.6 * torch.randn(8, 4, 8, 8), torch.randn(8, 4, 8, 8), t).x_t
    found = adapter.predict_with(batch)(x_t, t, t, torch.ones(8), PromptRows(tuple(range(8))))
    torch.testing.assert_close(found, flow.velocity(x_t, t), rtol=0, atol=2e-3)


@models
@torch.no_grad()
def test_untrained_conditioning_leaves_the_pretrained_network_as_it_is(name, folder):
    plain = host_model(name, folder, twinflow_enabled=False)
    batch = host_batch(plain, name)
    expected = plain.model_predict(prepared_batch=dict(batch))["model_prediction"]
    model, adapter, batch = made(name, folder)
    there = adapter.at(batch, batch["noisy_latents"], *torch.tensor([[0.7], [0.3], [-1.0]]).expand(3, 8))
    there |= {key: batch[key] for key in ("noisy_latents", "timesteps")}
    assert torch.equal(model.model_predict(prepared_batch=dict(there))["model_prediction"], expected)


@models
def test_time_target_time_and_sign_reach_the_network(name, folder):
    _, adapter, batch = made(name, folder)
    before = velocity(adapter, batch, 0.8, 0.0).detach()
    weights = [weight for module in adapter.time_conditioning_modules().values() for weight in module.parameters()]
    optimizer = torch.optim.Adam(weights, lr=0.05)
    (velocity(adapter, batch, 0.8, 0.4, -1).square().mean() + velocity(adapter, batch, 0.8, 0.4).mean()).backward()
    assert all(weight.grad is not None for weight in weights)
    optimizer.step()
    with torch.no_grad():
        here = velocity(adapter, batch, 0.8, 0.4)
        changes = {
            "t": velocity(adapter, batch, 0.6, 0.4),
            "r": velocity(adapter, batch, 0.8, 0.2),
            "sign": velocity(adapter, batch, 0.8, 0.4, -1),
        }
        for what, changed in changes.items():
            assert (changed - here).flatten(1).abs().amax(dim=1).min() > 1e-4, what
        assert torch.equal(velocity(adapter, batch, 0.8, 0.0), before), "r = 0 on positive time is the network's own"


@models
@torch.no_grad()
def test_signed_time_is_the_models_time_of_t_less_half_of_r_negative_on_the_twin_path(name, folder):
    model, adapter, batch = made(name, folder, twinflow_time_conditioning="signed_time")
    assert adapter.time_conditioning_modules() == {}
    calls = install_oracle(model, lambda x, abar: x)
    velocity(adapter, batch, 0.8, 0.4)
    velocity(adapter, batch, 0.8, 0.4, -1)
    at = adapter.path.time(torch.full((8,), 0.6))
    torch.testing.assert_close(calls[0]["timestep"], at)
    torch.testing.assert_close(calls[1]["timestep"], -at)
    assert torch.equal(calls[0]["sample"], calls[1]["sample"])


@models
@torch.no_grad()
def test_the_empty_prompt_takes_the_place_of_every_embedding_and_of_nothing_else(name, folder):
    model, adapter, batch = made(name, folder)
    calls = install_oracle(model, lambda x, abar: x)
    t, rows = torch.full((2,), 0.5), (3, 1)
    x_t, ones = torch.randn(2, 4, 8, 8), torch.ones(2)
    predict = adapter.predict_with(batch)
    for unconditional in (False, True):
        predict(x_t, t, t, ones, PromptRows(rows, unconditional=unconditional))
    prompts, empty = (tensors(call) for call in calls)
    assert prompts.keys() == empty.keys()
    changed = {key for key in prompts if not torch.equal(prompts[key], empty[key])}
    text = {key for key, value in prompts.items() if value.shape[1:] in {(5, 8), (5, 6), (8,), (5,)}}
    assert changed == text
    assert len(text) >= len(MODELS[name].text)
    for key in text:
        assert torch.equal(empty[key][0], empty[key][1])


def tensors(value, path=""):
    """All tensors in nested dicts and tuples, by the path to them; those a network was given."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    return {key: tensor for name, item in items for key, tensor in tensors(item, f"{path}/{name}").items()}


@models
def test_losses_and_gradients_are_finite_in_bf16(name, folder):
    model, adapter, batch = made(name, folder, dtype=torch.bfloat16)
    assert batch["noisy_latents"].dtype == torch.bfloat16
    losses = losses_of(adapter, batch, OPTIONS)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    gradients = [parameter.grad for parameter in model.model.parameters() if parameter.grad is not None]
    assert len(gradients) > 20
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@models
def test_gradients_of_the_conditioning_are_the_same_with_gradient_checkpointing(name, folder):
    gradients = []
    for checkpointing in (False, True):
        model, adapter, batch = made(name, folder)
        modules = adapter.time_conditioning_modules()
        for module in modules.values():
            for weight in module.parameters():
                torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
        model.model.train()
        if checkpointing:
            model.model.enable_gradient_checkpointing()
        prediction = velocity(adapter, batch, 0.8, 0.4, -1)
        with torch.no_grad():
            velocity(adapter, batch, 0.5, 0.1)  # a teacher's pass before the backward pass
        prediction.square().mean().backward()
        gradients.append(
            {f"{key}.{at}": weight.grad for key, module in modules.items() for at, weight in module.named_parameters()}
        )
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_a_model_that_knows_a_part_of_the_times_is_refused(folder):
    model = host_model("sdxl", folder)
    model.config.refiner_training = True  # as the host sets it when it has loaded a refiner
    with pytest.raises(TwinFlowConfigError, match="refiner_training is true"):
        family_model_for(model)
