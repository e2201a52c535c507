"""The host's epsilon and v models through our adapter: real classes, real batches, tiny networks."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from simpletuner.diff2flow import DiffusionToFlowBridge
from simpletuner.helpers.configuration import loader
from simpletuner.helpers.models.common import PipelineTypes
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowDiffusionScheduler
from simpletuner_twinflow.host.training.models import family_model_for
from simpletuner_twinflow.method.flow import interpolate, per_sample
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, compute_losses, prepare_role_batch
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from tests.host.training.diffusion_models import MODELS, REQUIRED, adapter_of, host_batch, host_model, install_oracle
from tests.method.oracles import GaussianFlow
from tests.method.training_step import ANY, NEAR, ONE, TWIN
from tests.sampling.diffusion_oracles import SCHEDULES, DiffusionOracle

SAMPLE = Path(__file__).parents[3] / "sample_configs/sdxl-diff2flow-twinflow.json"
ROLES = (ANY, TWIN, ONE, NEAR, NEAR, ONE, TWIN, ANY)
OPTIONS = ObjectiveSettings(adversarial_enabled=True)
models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the host looks for the files that a config names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StateTracker, "config_path", str(tmp_path))
    return tmp_path


def made(name, folder, **changes):
    model = host_model(name, folder, **changes)
    return model, adapter_of(model), host_batch(model, name)


def losses_of(adapter, batch, seed=1):
    """Every term on a batch of eight rows, two of each role, as the distiller comes to them."""
    generator, passes = torch.Generator().manual_seed(seed), adapter.predict_with(batch)
    x, z = batch["latents"].float(), batch["noise"].float()
    rows = prepare_role_batch(x, z, adapter.sigma(batch), ROLES, OPTIONS, passes, generator, step_times=(0.999, 0.6))
    prepared = adapter.at(batch, rows.x_t, rows.t, rows.r, rows.sign)
    prediction = adapter.velocity(adapter.model.model_predict(prepared_batch=dict(prepared)), prepared)
    return compute_losses(rows, prediction, OPTIONS, passes, passes, generator)


def velocity(adapter, batch, t, r, sign=1.0):
    """The velocity at the batch's latents and noise for these times, with gradient."""
    t, r, sign = (torch.full((8,), float(value)) for value in (t, r, sign))
    there = adapter.at(batch, interpolate(batch["latents"], batch["noise"], t).x_t, t, r, sign)
    return adapter.velocity(adapter.model.model_predict(prepared_batch=dict(there)), there)


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
    losses = losses_of(adapter, batch, seed=2)  # a seed without a time below the model's first one: see test_diffusion
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
    losses = losses_of(adapter, batch)
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


@models
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_hosts_own_pipeline_draws_with_the_runs_scheduler(name, folder, steps):
    model, adapter, _ = made(name, folder)
    tiny, cls = MODELS[name], model.PIPELINE_CLASSES[PipelineTypes.TEXT2IMG]
    scheduler = adapter.scheduler()
    assert isinstance(scheduler, TwinFlowDiffusionScheduler)
    assert scheduler.path.prediction_type == adapter.path.prediction_type
    times = torch.linspace(0, adapter.path.last_time, 50)
    torch.testing.assert_close(scheduler.path.sigma(times), adapter.path.sigma(times))
    given = {
        "scheduler": scheduler,
        "vae": AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2),
    }
    parameters = cls.__init__.__annotations__
    given |= {
        part: None for part in parameters if part.startswith(("text_enc", "token", "image_enc", "safety", "feat"))
    }
    pipeline = cls(**given, **{model.MODEL_TYPE.value: model.model})
    pipeline.set_progress_bar_config(disable=True)
    calls = install_oracle(model, lambda x, abar: x * abar.reshape(-1, 1, 1, 1).sqrt())
    text = {"prompt_embeds": torch.randn(1, 5, tiny.text["prompt_embeds"][-1])}
    if "pooled_prompt_embeds" in tiny.text:
        text["pooled_prompt_embeds"] = torch.randn(1, 8)
    if "attention_masks" in tiny.text:
        text |= {"prompt_attention_mask": torch.ones(1, 5), "use_resolution_binning": False, "negative_prompt": None}
    size = 8 * pipeline.vae_scale_factor
    images = pipeline(
        **text, height=size, width=size, num_inference_steps=steps, guidance_scale=0.0, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip
    assert torch.isfinite(images).all()
    assert [float(call["timestep"].flatten()[0]) for call in calls] == pytest.approx(scheduler.timesteps.tolist())
    # Pure noise is the model's last time, where that has not gone beyond the sampler's first level itself.
    assert scheduler.timesteps[0] == adapter.path.last_time or adapter.path.sigma_max > 0.999


def test_the_hosts_bridge_would_not_do_in_bf16():
    """Why the host's helper is not used: in training precision its thousand times are 297, its velocity is off."""
    bridge = DiffusionToFlowBridge(alphas_cumprod=SCHEDULES["sdxl"]).to(dtype=torch.bfloat16)
    time = torch.arange(1000)
    assert len(bridge.timesteps_to_sigma(time).unique()) == 297
    assert (bridge.sigma_to_timesteps(bridge.timesteps_to_sigma(time)) - time).abs().max() >= 19
    flow = GaussianFlow(mean=0.3, std=0.6)
    abar = SCHEDULES["sdxl"].double()
    t = (1 - abar).sqrt() / (abar.sqrt() + (1 - abar).sqrt())
    x_t = interpolate(0.3 + 0.6 * torch.randn(1000, 16), torch.randn(1000, 16), t.float()).x_t
    noisy = (x_t.double() * per_sample(abar.sqrt() + (1 - abar).sqrt(), like=x_t)).bfloat16()
    seen = flow_state(noisy.double(), t)
    epsilon = DiffusionOracle(flow, "epsilon")(noisy.double(), abar)
    theirs = bridge.prediction_to_flow(epsilon.bfloat16(), noisy, time, prediction_type="epsilon")
    assert (theirs.double() - flow.velocity(seen, t)).abs().max() > 0.1


def test_a_model_that_knows_a_part_of_the_times_is_refused(folder):
    model = host_model("sdxl", folder)
    model.config.refiner_training = True  # as the host sets it when it has loaded a refiner
    with pytest.raises(TwinFlowConfigError, match="refiner_training is true"):
        family_model_for(model)


def load(**changes):
    given = json.loads(SAMPLE.read_text(encoding="utf-8"))
    required = {
        key: REQUIRED[key] for key in ("data_backend_config", "optimizer", "max_train_steps", "num_train_epochs")
    }
    return loader.load_config(given | required | changes)


def test_the_sample_config_is_accepted():
    assert load().twinflow_enabled is True


@pytest.mark.parametrize("family", sorted({tiny.family for tiny in MODELS.values()}))
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", None])
def test_proven_families_start_with_both_keys(family, kind):
    trained = {"model_type": "full"} if family == "pixart" else {}  # the host saves no adapter of it
    assert load(model_family=family, prediction_type=kind, **trained).twinflow_enabled is True


@pytest.mark.parametrize("changes", [{"diff2flow_enabled": False}, {"twinflow_allow_diff2flow": False}], ids="+".join)
def test_without_one_of_the_keys_the_refusal_names_both(changes):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(**changes)
    for words in ("prediction_type", "diff2flow_enabled", "twinflow_allow_diff2flow", "to true"):
        assert words in str(refusal.value)


REFUSED = [
    ({"model_family": "deepfloyd"}, ["deepfloyd", "diff2flow_enabled", "sdxl"]),
    ({"prediction_type": "sample"}, ["prediction_type", "'sample'", "v_prediction"]),
    ({"prediction_type": "flow_matching"}, ["prediction_type", "'flow_matching'", "v_prediction"]),
    ({"snr_gamma": 5}, ["snr_gamma", "5", "remove it"]),
    ({"use_soft_min_snr": True, "soft_min_snr_sigma_data": 1}, ["use_soft_min_snr", "set it to false"]),
    ({"offset_noise": True}, ["offset_noise", "set it to false"]),
    ({"refiner_training": True}, ["refiner_training", "set it to false"]),
]


@pytest.mark.parametrize(
    ("changes", "words"), REFUSED, ids=lambda value: "+".join(value) if type(value) is dict else ""
)
def test_what_an_epsilon_or_v_run_cannot_honour_is_refused_by_name(changes, words):
    with pytest.raises(TwinFlowConfigError) as refusal:
        load(**changes)
    for word in words:
        assert word in str(refusal.value)
