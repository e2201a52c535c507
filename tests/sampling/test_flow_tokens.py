"""Tokens with timesteps of their own, as a conditioning image's have: each goes on to the next sigma below its own."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler

# Of four tokens: the step's own, one on the schedule below it, one between, and a clean one.
TOKENS = torch.tensor([[999.0, 600.0, 700.0, 0.0]])
NOW, FOLLOWING = torch.tensor([0.999, 0.6, 0.7, 0.0]), torch.tensor([0.6, 0.0, 0.6, 0.0])


def begun(**settings):
    scheduler = TwinFlowScheduler(**{"sigma_max": 0.999, "sigma_min": 0.6} | settings)
    scheduler.set_timesteps(2)
    return scheduler


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_tokens_go_on_to_the_next_sigma_below(share):
    scheduler = begun(stochastic_ratio=share)
    x, velocity = torch.randn(2, 1, 4, 5)
    generator, twin = (torch.Generator().manual_seed(3) for _ in range(2))
    noise = torch.randn(1, 4, 5, generator=twin)
    # From noise to data, as pipelines pass it to the parent here.
    found = scheduler.step(-velocity, scheduler.timesteps[0], x, generator=generator, per_token_timesteps=TOKENS)
    x_hat = x - NOW[:, None] * velocity
    z_hat = noise if share else x + (1 - NOW[:, None]) * velocity
    torch.testing.assert_close(found.prev_sample, (1 - FOLLOWING[:, None]) * x_hat + FOLLOWING[:, None] * z_hat)
    torch.testing.assert_close(found.pred_original_sample, x_hat)
    assert scheduler.step_index == 1


def test_without_fresh_noise_tokens_go_as_the_parent_takes_them():
    ours, parent = begun(stochastic_ratio=0.0), FlowMatchEulerDiscreteScheduler()
    parent.set_timesteps(sigmas=[0.999, 0.6])
    x, output = torch.randn(2, 1, 4, 5)
    found, expected = (
        each.step(output, each.timesteps[0], x, per_token_timesteps=TOKENS, return_dict=False)[0]
        for each in (ours, parent)
    )
    torch.testing.assert_close(found, expected)


def test_token_timestep_that_was_rounded_is_the_steps_own():
    scheduler = begun(stochastic_ratio=0.0)
    x, velocity = torch.randn(2, 1, 4, 5)
    tokens = torch.full((1, 4), 999.0).bfloat16()  # 1000
    found = scheduler.step(-velocity, scheduler.timesteps[0], x, per_token_timesteps=tokens).prev_sample
    torch.testing.assert_close(found, x - (0.999 - 0.6) * velocity)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"num_train_timesteps": 500}, TOKENS / 2),
        ({"invert_sigmas": True, "num_train_timesteps": 1}, 1 - TOKENS / 1000),
        ({"invert_sigmas": True}, 1000 - TOKENS),
    ],
    ids=["500", "inverted", "inverted, 1000"],
)
def test_tokens_are_counted_as_the_timesteps_are(settings, tokens):
    x, velocity = torch.randn(2, 1, 4, 5)
    found = [
        scheduler.step(-velocity, scheduler.timesteps[0], x, per_token_timesteps=times).prev_sample
        for scheduler, times in ((begun(), TOKENS), (begun(**settings), tokens))
    ]
    torch.testing.assert_close(*found)
