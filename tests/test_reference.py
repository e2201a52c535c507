"""The values that the public implementation (inclusionAI/TwinFlow a109a71) gives, to 1e-9 in float64."""

import json
from pathlib import Path

import pytest
import torch

from simpletuner_twinflow.method.batch import RoleBatch
from simpletuner_twinflow.method.flow import interpolate, per_sample, rollout
from simpletuner_twinflow.method.guidance import guided_velocity
from simpletuner_twinflow.method.losses import barron, rcgm_target, rectify_target, time_weight
from simpletuner_twinflow.method.objective import ObjectiveSettings, compute_losses
from simpletuner_twinflow.method.roles import Role
from simpletuner_twinflow.sampling.flow_scheduler import TwinFlowScheduler
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from simpletuner_twinflow.sampling.solver import sample

VALUES = json.loads((Path(__file__).parent / "reference_values.json").read_text(encoding="utf-8"))
RCGM = VALUES["rcgm_target"]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(found, tensor(expected), rtol=0, atol=1e-9)


class Network:
    """F(x, t, r, cond) = x W' + t a + r b + sin(3 t) c + e[cond]; t comes signed."""

    def __init__(self, name="network"):
        self.w, self.a, self.b, self.c, self.e = (tensor(VALUES[name][key]) for key in ("W", "a", "b", "c", "e"))

    def __call__(self, x, t, r, cond):
        t, r = (per_sample(times.expand(len(x)), like=x) for times in (t, r))
        return x @ self.w.T + t * self.a + r * self.b + torch.sin(3 * t) * self.c + self.e[cond]


def case_name(case):
    return f"N={case['order']} {case['t']}->{case['r']} {case.get('network', 'network')}"


@pytest.mark.parametrize("case", RCGM["cases"], ids=case_name)
def test_rcgm_target(case):
    network, cond = Network(case.get("network", "network")), case["cond"]
    x, z = tensor(case["x"]), tensor(case["z"])
    t, r = (torch.full((len(x),), case[time], dtype=torch.float64) for time in "tr")
    x_t, velocity = interpolate(x, z, t)
    prediction = network(x_t, t, r, cond)
    close(prediction, case["prediction"])
    s = torch.maximum(t - RCGM["delta_t"], r)
    x_s = x_t - per_sample(t - s, like=x) * velocity
    displacement = rollout(lambda *at: network(*at, cond), x_s, s, r, case["order"]).displacement
    target = rcgm_target(prediction, velocity, displacement, t, r, delta_t=RCGM["delta_t"], clamp=RCGM["clamp"])
    close(target, case["target"])


@pytest.mark.parametrize("case", RCGM["cases"], ids=case_name)
def test_rcgm_loss_of_a_training_step(case, generator):
    # The step works with float32 times, which the factor 1 / delta_t turns into 1e-5.
    network = Network(case.get("network", "network"))
    x, z = tensor(case["x"]), tensor(case["z"])
    t, r = (torch.full((len(x),), case[time], dtype=torch.float32) for time in "tr")
    x_t, velocity = interpolate(x, z, t)
    rows = RoleBatch((Role.any_step,) * len(x), x=x, z=z, t=t, r=r, sign=torch.ones_like(t), x_t=x_t, velocity=velocity)

    def predict(x, t, r, sign, condition):
        return network(x, t, r, [case["cond"][row] for row in condition.rows])

    options = ObjectiveSettings(estimate_order=case["order"], enhanced_ratio=0.0)
    losses = compute_losses(rows, lambda: tensor(case["prediction"]), options, predict, predict, generator)
    expected = (tensor(case["prediction"]) - tensor(case["target"])).square().mean()
    torch.testing.assert_close(losses.total, expected, rtol=1e-4, atol=1e-5)


def test_guided_velocity():
    case, network = VALUES["cfg_enhance"], Network()
    t = tensor(case["t"]).flatten()
    x_t, velocity = interpolate(tensor(case["x"]), tensor(case["z"]), t)
    conditional, unconditional = (network(x_t, t, t, case[which]) for which in ("cond", "uncond"))
    close(guided_velocity(velocity, conditional, unconditional, case["ratio"]), case["target"])


def test_rectify_difference_and_target():
    case, network = VALUES["rectify"], Network()
    t = tensor(case["t"]).flatten()
    x_t = interpolate(tensor(case["x_fake"]), tensor(case["noise"]), t).x_t
    difference = network(x_t, -t, -t, case["cond"]) - network(x_t, t, t, case["cond"])
    close(difference, case["velocity_difference"])
    prediction = torch.randn_like(x_t)
    close(rectify_target(prediction, difference), (prediction - difference.clamp(-1, 1)).tolist())


def test_barron():
    case = VALUES["barron"]
    loss = barron(tensor(case["prediction"]), tensor(case["target"]), alpha=case["alpha"], scale=case["c"])
    close(loss, case["loss"])


def test_time_weight():
    case = VALUES["time_weight"]
    close(time_weight(tensor(case["t"]), tensor(case["r"])), case["weight"])


def settings_of(case):
    settings = case["settings"]
    first_gap, sigma_min = settings["rfba_gap_steps"]
    return {
        "style": settings["sampling_style"],
        "stochastic_ratio": settings["stochast_ratio"],
        "sigma_max": 1 - first_gap,
        "sigma_min": sigma_min,
    }


def sampler_case_name(case):
    settings = case["settings"]
    return f"{settings['sampling_style']}-{settings['sampling_steps']}"


sampler_cases = pytest.mark.parametrize("case", VALUES["sampler"]["cases"], ids=sampler_case_name)


@sampler_cases
def test_sampler(case):
    network, noise, calls = Network(), iter(case["fresh_noise"]), []

    def predict(x, t, r):
        calls.append((float(t[0]), float(r[0])))
        return network(x, t, r, case["cond"])

    settings = SamplerSettings(**settings_of(case))
    found = sample(
        predict, tensor(case["noise_z"]), case["settings"]["sampling_steps"], settings, lambda like: tensor(next(noise))
    )
    close(found, case["result"])
    close(tensor(calls), case["times_and_targets"])


@sampler_cases
def test_scheduler(case, monkeypatch):
    network, noise = Network(), iter(case["fresh_noise"])
    scheduler = TwinFlowScheduler(**settings_of(case))
    monkeypatch.setattr(scheduler, "_fresh_noise", lambda like, generator: tensor(next(noise)))
    scheduler.set_timesteps(case["settings"]["sampling_steps"])
    x = tensor(case["noise_z"])
    for (t, r), timestep, target_time in zip(
        case["times_and_targets"], scheduler.timesteps, scheduler.target_times, strict=True
    ):
        assert float(timestep) / 1000 == pytest.approx(t, abs=1e-7)  # public times are float32
        assert float(target_time) == pytest.approx(r, abs=1e-7)
        velocity = network(x, tensor([t]), tensor([r]), case["cond"])
        (x,) = scheduler.step(velocity, timestep, x, return_dict=False)
    close(x, case["result"])
