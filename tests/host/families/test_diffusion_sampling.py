"""The host's own pipelines of epsilon and v models draw an exact network's data with the run's scheduler."""

import pytest
import torch
from diffusers import AutoencoderKL
from simpletuner.diff2flow import DiffusionToFlowBridge
from simpletuner.helpers.models.common import PipelineTypes

from simpletuner_twinflow import TwinFlowDiffusionScheduler
from simpletuner_twinflow.method.flow import interpolate, per_sample
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from testbed.host_models.build import family_model_of
from testbed.host_models.diffusion import MODELS, host_batch, host_model
from testbed.host_models.diffusion_oracle import install_oracle
from tests.method.oracles import GaussianFlow
from tests.sampling.diffusion_oracles import SCHEDULES, DiffusionOracle

models = pytest.mark.parametrize("name", MODELS)


def made(name, folder, **changes):
    model = host_model(name, folder, **changes)
    return model, family_model_of(model), host_batch(model, name)


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
