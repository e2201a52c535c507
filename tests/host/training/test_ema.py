"""The host's own EMA as a teacher: which dtype its shadows have, where they are, and what swapping them costs."""

import logging
from types import SimpleNamespace

import pytest
import torch
from simpletuner.helpers.training.ema import EMAModel
from torch import nn

from simpletuner_twinflow.host.training.ema import settle_device
from simpletuner_twinflow.method.teacher import teacher_weights

DECAY = 0.99
STEPS = 3000


def averaged(shadow_dtype: torch.dtype, steps: int) -> torch.Tensor:
    """The average of a parameter that has moved from 1 to 2, after so many steps of the host's EMA."""
    config = SimpleNamespace(
        twinflow_enabled=True, ema_update_interval=None, ema_device="accelerator", ema_cpu_only=False
    )
    parameter = nn.Parameter(torch.ones(4))
    ema = EMAModel(config, None, [parameter], decay=DECAY, min_decay=DECAY)
    ema.optimization_step = 10_000  # past the warm-up
    ema.to(dtype=shadow_dtype)
    parameter.data.fill_(2.0)
    for _ in range(steps):
        ema.step([parameter])
    return ema.shadow_params[0].float()


def test_float32_shadow_follows_the_weights_and_a_bf16_shadow_stands_still():
    """Between 1 and 2 bf16 numbers are 2^-7 apart: a step of less than half of that, at decay 0.99, is no step."""
    torch.testing.assert_close(averaged(torch.float32, 200), torch.full((4,), 2 - DECAY**200), rtol=0, atol=1e-4)
    assert averaged(torch.float32, STEPS).min() > 1.9999
    stalled = averaged(torch.bfloat16, STEPS)
    assert stalled.max() < 1.75
    assert torch.equal(stalled, averaged(torch.bfloat16, STEPS // 10))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("model_type", ["lora", "full"])
def test_adapters_ema_stays_with_the_student(model_type, device, caplog):
    config = SimpleNamespace(twinflow_enabled=True, ema_device="cpu", ema_cpu_only=False, model_type=model_type)
    with caplog.at_level(logging.INFO):
        settle_device(config, 2_000_000, torch.device(device))
    assert config.ema_device == ("accelerator" if model_type == "lora" else "cpu")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if model_type == "full" and device == "cuda":
        [message] = warned
        for words in ("ema_device", "2,000,000 parameters", "0.01 GB", "accelerator"):
            assert words in message
    else:
        assert warned == []


def test_ema_that_the_user_keeps_on_the_cpu_stays_there_and_is_warned_of(caplog):
    config = SimpleNamespace(twinflow_enabled=True, ema_device="cpu", ema_cpu_only=True, model_type="lora")
    settle_device(config, 1000, torch.device("cuda"))
    assert config.ema_device == "cpu"
    assert "ema_cpu_only" in caplog.text


def test_hosts_shadows_lend_themselves_without_a_copy():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    ema = EMAModel(SimpleNamespace(), None, trained)
    frozen = [parameter.data_ptr() for parameter in network[1].parameters()]
    with teacher_weights(trained, ema.shadow_params):
        assert [parameter.data_ptr() for parameter in trained] == [shadow.data_ptr() for shadow in ema.shadow_params]
        assert [parameter.data_ptr() for parameter in network[1].parameters()] == frozen


def test_shadows_of_a_run_in_bf16_are_placed_in_float32(trainer):
    trainer.config.weight_dtype = torch.bfloat16
    trainer._place_ema_model(is_fsdp2_run=False)
    assert {shadow.dtype for shadow in trainer.ema_model.shadow_params} == {torch.float32}
    assert trainer.config.weight_dtype is torch.bfloat16
