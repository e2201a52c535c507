"""What sampling makes, and of which random numbers; its values against the reference are in test_reference."""

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import DerivedNoise, sample
from tests.sampling.loop import FLOW

HALF_NEW = SamplerSettings(stochastic_ratio=0.5, sigma_max=1.0)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_perfect_any_step_network_lands_on_the_flow_map_in_any_number_of_steps(steps):
    noise, ones = torch.randn(5, 3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    made = sample(FLOW.average_velocity, noise, steps, SamplerSettings(style="any", sigma_max=1.0))
    torch.testing.assert_close(made, FLOW.flow_map(noise, ones, 0 * ones), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_step_samples_of_a_perfect_network_are_distributed_like_the_data(steps):
    settings = SamplerSettings(stochastic_ratio=1.0, sigma_max=1.0)
    made = sample(FLOW.average_velocity, torch.randn(20_000, 1), steps, settings)
    assert made.mean() == pytest.approx(0.4, abs=0.02)
    assert made.std() == pytest.approx(0.5, abs=0.02)


def ode_error(steps):
    """Distance from the flow map under a network that knows the velocity only."""
    noise, ones = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.ones(9, dtype=torch.float64)
    x = FLOW.flow_map(noise, ones, 0.95 * ones)
    made = sample(lambda x, t, r: FLOW.velocity(x, t), x, steps, SamplerSettings(style="multi", sigma_max=0.95))
    return (made - FLOW.flow_map(noise, ones, 0 * ones)).norm()


def test_multi_is_eulers_method_of_first_order():
    errors = [ode_error(steps) for steps in (64, 128, 256)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_fresh_noise_has_its_share_of_the_variance_and_the_last_step_draws_none():
    noise, drawn = torch.zeros(1, 4, dtype=torch.float64), []

    def draw(like):
        drawn.append(torch.ones_like(like))
        return drawn[-1]

    made = sample(lambda x, t, r: torch.zeros_like(x), noise, 3, HALF_NEW, draw)
    # x stays where noise put it: x' = x_hat (1 - t') + t' (sqrt(1/2) z_hat + sqrt(1/2)), x_hat = z_hat = x.
    x, half = 0.0, 0.5**0.5
    for t_next in (0.75, 0.5):
        x = (1 - t_next) * x + t_next * (half * x + half)
    torch.testing.assert_close(made, torch.full_like(made, x))
    assert len(drawn) == 2


def test_the_plain_loop_loses_no_digits_between_its_steps():
    noise, third = torch.randn(64, 16).bfloat16(), float(torch.tensor(1 / 3).bfloat16())
    made = sample(lambda x, t, r: torch.full_like(x, 1 / 3), noise, 50, SamplerSettings(style="any"))
    assert torch.equal(made, (noise.double() - third).bfloat16())


def test_the_noise_drawn_is_fresh_from_step_to_step_and_from_sample_to_sample():
    start = torch.randn(2, 20_000)
    derived = DerivedNoise(start)
    drawn = torch.cat([start, derived(start), derived(start)])
    torch.testing.assert_close(torch.corrcoef(drawn), torch.eye(6), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(dim=1), torch.ones(6), rtol=0, atol=0.03)


def test_derived_noise_follows_from_start_and_seed_and_not_from_the_batch():
    start = torch.randn(2, 6)
    drawn = DerivedNoise(start)(start)
    assert torch.equal(DerivedNoise(start[1:])(start[1:]), drawn[1:])
    assert not torch.isclose(DerivedNoise(start, seed=1)(start), drawn).any()
    with pytest.raises(TwinFlowError, match="began with 2 samples and now has 1"):
        DerivedNoise(start)(start[1:])


def test_sampling_leaves_the_global_random_stream_alone():
    before = torch.get_rng_state()
    sample(FLOW.average_velocity, torch.zeros(2, 3), 4, SamplerSettings(stochastic_ratio=1.0))
    assert torch.equal(torch.get_rng_state(), before)
