"""RCGM's fixed point through an epsilon or v model is the average velocity."""

import math

import pytest
import torch

from simpletuner_twinflow.method.flow import per_sample, rollout
from simpletuner_twinflow.method.losses import rcgm_target
from simpletuner_twinflow.sampling.diffusion_path import DiffusionPath, flow_state
from tests.sampling.diffusion_oracles import MODELS, SCHEDULES, gaussian, on_the_path, prediction_for

models = pytest.mark.parametrize(("abar", "kind"), MODELS.values(), ids=MODELS.keys())
KINDS = pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
ORDERS = pytest.mark.parametrize("order", [1, 2, 3], ids="N={}".format)


def average_velocity(flow, path, kind):
    """An exact network of average velocities behind the diffusion side: it sees x_diff and its own time, and r."""

    def network(x, time, r):
        t = path.sigma(time)
        x_t = flow_state(x, t)
        return prediction_for(kind, flow.average_velocity(x_t, t, r), x_t, t)

    def predict(x_t, t, r):
        point = path.point(x_t, t)
        return path.velocity(network(point.x, point.time, r), point.x, t)

    return predict


def target_of(predict, x_t, velocity, t, r, *, order, delta_t):
    """The RCGM target with `predict` as teacher, put together as docs/method.md says."""
    s = torch.maximum(t - delta_t, r)
    x_s = x_t - per_sample(t - s, like=x_t) * velocity
    displacement = rollout(predict, x_s, s, r, order).displacement
    return rcgm_target(predict(x_t, t, r), velocity, displacement, t, r, delta_t=delta_t, clamp=100.0)


@models
@ORDERS
@pytest.mark.parametrize(("t", "r"), [(0.93, 0.0), (0.7, 0.3), (0.5, 0.498), (0.5, 0.5)])
def test_the_average_velocity_is_rcgms_fixed_point_through_the_models_own_point_and_time(abar, kind, order, t, r):
    flow, path = gaussian(), DiffusionPath(abar, kind)
    t, r = (torch.full((6,), value, dtype=torch.float64) for value in (t, r))
    x_t = on_the_path(flow, t)
    predict, exact = average_velocity(flow, path, kind), flow.average_velocity(x_t, t, r)
    torch.testing.assert_close(predict(x_t, t, r), exact, rtol=0, atol=1e-7)
    target = target_of(predict, x_t, flow.velocity(x_t, t), t, r, order=order, delta_t=1e-5)
    torch.testing.assert_close(target, exact, rtol=0, atol=1e-3)


@KINDS
@ORDERS
def test_the_residual_at_the_fixed_point_is_of_order_one_in_delta_t(kind, order):
    flow, path = gaussian(), DiffusionPath(SCHEDULES["sdxl"], kind)
    t, r = torch.full((6,), 0.9, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    x_t = on_the_path(flow, t)
    predict, exact = average_velocity(flow, path, kind), flow.average_velocity(x_t, t, r)

    def residual(delta_t):
        target = target_of(predict, x_t, flow.velocity(x_t, t), t, r, order=order, delta_t=delta_t)
        return float((target - exact).norm())

    halvings = [0.02, 0.01, 0.005, 0.0025]
    measured = [math.log2(residual(delta) / residual(delta / 2)) for delta in halvings]
    assert measured == pytest.approx([1.0] * 4, abs=0.1)


@KINDS
def test_the_fixed_point_holds_in_float32_at_the_trained_delta_t(kind):
    flow, path = gaussian(torch.float32), DiffusionPath(SCHEDULES["sdxl"], kind)
    t, r = torch.linspace(0.1, 0.93, 40), torch.zeros(40)
    x_t = on_the_path(flow, t)
    double = gaussian()
    exact = {
        dtype: target_of(
            average_velocity(model, path, kind), x_t.to(dtype), model.velocity(x_t.to(dtype), t.to(dtype)),
            t.to(dtype), r.to(dtype), order=2, delta_t=0.01,
        )
        for dtype, model in ((torch.float32, flow), (torch.float64, double))
    }  # fmt: skip
    torch.testing.assert_close(exact[torch.float32].double(), exact[torch.float64], rtol=0, atol=0.02)
