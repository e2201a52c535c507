"""The scheduler of epsilon and v models; what holds for every few-step scheduler is in test_base."""

import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from simpletuner_twinflow import TwinFlowDiffusionScheduler
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.sampling.diffusion_path import flow_state
from tests.sampling.diffusion_oracles import SDXL
from tests.sampling.diffusion_pipelines import ZERO_SNR, scheduler_of


def test_between_the_steps_nothing_is_lost_to_rounding():
    scheduler = scheduler_of(
        SDXL | {"prediction_type": "v_prediction"}, style="any", stochastic_ratio=0.0, flow_sigma_max=0.9
    )
    scheduler.set_timesteps(40)
    start = torch.randn(64, 16).bfloat16()
    x, exact = start, flow_state(start.double(), scheduler.flow_sigmas[:1].expand(64))
    sigmas = scheduler.flow_sigmas
    for time, sigma, following in zip(scheduler.timesteps, sigmas[:-1], sigmas[1:], strict=True):
        v = torch.full_like(x, 0.25)
        velocity = scheduler.path.velocity(v, x, sigma.expand(64)).double()
        exact = exact - float(sigma - following) * velocity
        x = scheduler.step(v, time, x).prev_sample
    assert x.dtype == torch.bfloat16
    assert torch.equal(x, exact.bfloat16())


def test_a_new_one_is_laid_out_for_one_step():
    scheduler = scheduler_of(SDXL)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 1


def test_noise_is_added_as_the_stock_schedulers_add_it():
    ours, stock = scheduler_of(SDXL), DDIMScheduler(**SDXL)
    x, z, times = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 10, 500, 900, 999])
    torch.testing.assert_close(ours.add_noise(x, z, times), stock.add_noise(x, z, times), rtol=0, atol=2e-5)


STOCK = {
    "ddim": DDIMScheduler(**SDXL, prediction_type="v_prediction", clip_sample=False, steps_offset=1),
    "pndm": PNDMScheduler(**SDXL, prediction_type="v_prediction", skip_prk_steps=True),
    "euler": EulerDiscreteScheduler(**SDXL, prediction_type="v_prediction", timestep_spacing="leading"),
    "dpm": DPMSolverMultistepScheduler(**SDXL, prediction_type="v_prediction", solver_order=3),
    "zero snr": DDIMScheduler(**ZERO_SNR, timestep_spacing="trailing"),
}


@pytest.mark.parametrize("stock", STOCK.values(), ids=STOCK.keys())
def test_it_takes_over_from_stock_schedulers_with_their_noise_schedule_and_prediction(stock):
    ours = TwinFlowDiffusionScheduler.from_config(stock.config)
    zero_snr = stock.config.get("rescale_betas_zero_snr", False)
    expected = scheduler_of(ZERO_SNR if zero_snr else SDXL).alphas_cumprod
    torch.testing.assert_close(ours.alphas_cumprod, expected)
    assert ours.path.prediction_type == "v_prediction"
    ours.set_timesteps(2)
    assert ours.flow_sigmas.tolist() == pytest.approx([0.999, 0.6, 0.0])


def test_what_a_stock_scheduler_had_by_default_is_taken_over_too():
    ours = TwinFlowDiffusionScheduler.from_config(LCMScheduler().config)
    assert (ours.config.beta_schedule, ours.config.beta_end) == ("scaled_linear", 0.012)
    given, unused = TwinFlowDiffusionScheduler.from_config(
        DDIMScheduler().config, prediction_type="v_prediction", return_unused_kwargs=True
    )
    assert given.path.prediction_type == "v_prediction"
    assert "prediction_type" not in unused


def test_every_setting_is_saved_and_loaded(tmp_path):
    scheduler = scheduler_of(ZERO_SNR, flow_sigma_max=0.99, flow_sigma_min=0.2)
    scheduler.save_pretrained(tmp_path)
    for loaded in (
        TwinFlowDiffusionScheduler.from_pretrained(tmp_path),
        TwinFlowDiffusionScheduler.from_config(scheduler.config),
    ):
        assert loaded.alphas_cumprod[-1] == 0
        assert loaded.path.prediction_type == "v_prediction"
        assert loaded.step_times(3) == pytest.approx((0.99, 0.595, 0.2))


def test_pipelines_find_what_they_look_for():
    scheduler = scheduler_of(SDXL)
    scheduler.set_timesteps(4, device="cpu")
    assert scheduler.timesteps[0] == 999  # the flow's 0.999 lies above it
    torch.testing.assert_close(scheduler.path.sigma(scheduler.timesteps[1:]), scheduler.flow_sigmas[1:-1])
    assert scheduler.init_noise_sigma == pytest.approx(1 / (0.999**2 + 0.001**2) ** 0.5)
    assert {"timesteps", "sigmas"} <= set(inspect.signature(scheduler.set_timesteps).parameters)
    assert {"generator"} <= set(inspect.signature(scheduler.step).parameters)


def test_another_kind_of_prediction_is_refused():
    with pytest.raises(TwinFlowConfigError, match="prediction_type is 'sample'"):
        scheduler_of(SDXL | {"prediction_type": "sample"})


def test_of_equal_timesteps_the_first_is_meant():
    scheduler = scheduler_of(SDXL, flow_sigma_min=0.95)  # all above the model's last time
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [999.0] * 3
    assert scheduler.index_for_timestep(999) == 0
