import math

import pytest
import torch

from simpletuner_twinflow.method.flow import interpolate, per_sample, rollout
from simpletuner_twinflow.method.guidance import guided_velocity
from simpletuner_twinflow.method.losses import (
    barron,
    rcgm_target,
    rectify_target,
    squared_error,
    time_weight,
)
from tests.method.oracles import GaussianFlow, StraightFlow, times

ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 5], ids="N={}".format)
# r from all the way down to t itself, with one inside the finite difference.
SPANS = {"to data": (0.7, 0.0), "from noise": (1.0, 0.0), "part way": (0.7, 0.3), "within delta_t": (0.7, 0.695),
         "r = t": (0.7, 0.7), "r = t = 0": (0.0, 0.0), "r = t = 1": (1.0, 1.0)}  # fmt: skip
spans = pytest.mark.parametrize(("t", "r"), SPANS.values(), ids=SPANS.keys())


def target_of(predict, prediction, x_t, velocity, t, r, *, order=2, delta_t=0.01, clamp=1.0):
    """The RCGM target with `predict` as teacher, put together as docs/method.md says."""
    s = torch.maximum(t - delta_t, r)
    x_s = x_t - per_sample(t - s, like=x_t) * velocity
    displacement = rollout(predict, x_s, s, r, order).displacement
    return rcgm_target(prediction, velocity, displacement, t, r, delta_t=delta_t, clamp=clamp)


def batch(shape=(4, 2, 3, 3), dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


def filled(value, dtype=torch.float64, count=4):
    return torch.full((count,), value, dtype=dtype)


@ORDERS
@spans
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str)
def test_the_velocity_of_a_straight_flow_is_its_own_target(order, t, r, dtype, tolerance):
    flow = StraightFlow(*batch(dtype=dtype))
    t, r = filled(t, dtype), filled(r, dtype)
    x_t, v = interpolate(flow.x, flow.z, t)
    target = target_of(flow.average_velocity, v, x_t, v, t, r, order=order)
    assert target.dtype == dtype
    torch.testing.assert_close(target, v, rtol=0, atol=tolerance)


@ORDERS
@spans
def test_a_bf16_network_on_a_straight_flow_is_off_by_its_own_rounding_only(order, t, r):
    flow = StraightFlow(*batch(dtype=torch.float32))
    t, r = filled(t, torch.float32), filled(r, torch.float32)
    x_t, v = interpolate(flow.x, flow.z, t)
    target = target_of(lambda *at: flow.average_velocity(*at).bfloat16(), v.bfloat16(), x_t, v, t, r, order=order)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, v, rtol=0.01, atol=0.01)


@ORDERS
@spans
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-5), (torch.float32, 2e-3)], ids=str)
def test_the_average_velocity_of_a_gaussian_flow_is_the_fixed_point(order, t, r, dtype, tolerance):
    # With the marginal velocity the path is the true one; what remains is of the order of delta_t.
    flow, x_t = GaussianFlow(mean=0.3, std=0.6), batch(dtype=dtype)[0]
    t, r, delta_t = filled(t, dtype), filled(r, dtype), {torch.float64: 1e-5, torch.float32: 1e-3}[dtype]
    exact = flow.average_velocity(x_t, t, r)
    target = target_of(
        flow.average_velocity, exact, x_t, flow.velocity(x_t, t), t, r, order=order, delta_t=delta_t, clamp=100.0
    )
    torch.testing.assert_close(target, exact, rtol=0, atol=tolerance * float(exact.abs().max()))


@ORDERS
def test_the_targets_of_all_data_that_meet_in_a_point_average_to_the_fixed_point(order):
    # The map is affine, so the posterior's plus and minus eps average as the whole posterior does.
    flow, (x_t, eps) = GaussianFlow(mean=0.3, std=0.6), batch()
    t, r = times(1.0, 0.8, 0.5, 0.2), times(0.0, 0.1, 0.5, 0.1)
    exact = flow.average_velocity(x_t, t, r)
    targets = []
    for side in (eps, -eps):
        x, z = flow.ends_given(x_t, t, side)
        targets.append(target_of(flow.average_velocity, exact, x_t, z - x, t, r, order=order, delta_t=1e-5, clamp=1e9))
    torch.testing.assert_close(sum(targets) / 2, exact, rtol=0, atol=1e-3)
    assert not torch.allclose(targets[0], exact, atol=0.1)  # each alone is noisy: the average did the work


@ORDERS
@pytest.mark.parametrize(("t", "r"), [(0.9, 0.0), (0.7, 0.3), (1.0, 0.0)])
def test_the_residual_at_the_fixed_point_is_of_order_one_in_delta_t(order, t, r):
    flow, x_t = GaussianFlow(mean=0.3, std=0.6), batch()[0]
    t, r = filled(t), filled(r)
    exact, v = flow.average_velocity(x_t, t, r), flow.velocity(x_t, t)

    def residual(delta_t):
        target = target_of(flow.average_velocity, exact, x_t, v, t, r, order=order, delta_t=delta_t, clamp=100.0)
        return (target - exact).norm()

    halvings = [0.02, 0.01, 0.005, 0.0025]
    measured = [math.log2(residual(delta) / residual(delta / 2)) for delta in halvings]
    assert measured == pytest.approx([1.0] * 4, abs=0.1)


def test_a_wrong_prediction_is_pulled_towards_the_fixed_point():
    flow, x_t = GaussianFlow(mean=0.3, std=0.6), batch()[0]
    t, r = filled(0.8), filled(0.1)
    exact, off = flow.average_velocity(x_t, t, r), torch.randn_like(x_t)
    target = target_of(flow.average_velocity, exact + off, x_t, flow.velocity(x_t, t), t, r)
    assert (torch.sign(target - (exact + off)) == -torch.sign(off)).double().mean() > 0.95


def test_the_clamp_bounds_the_step_from_prediction_to_target():
    prediction, wild = torch.randn(2, 5), torch.tensor([[1e30], [-1e30]]).expand(2, 5)
    for clamp in (0.5, 1.0):
        target = rcgm_target(prediction, prediction, wild, torch.ones(2), torch.zeros(2), delta_t=0.01, clamp=clamp)
        torch.testing.assert_close((target - prediction).abs(), torch.full((2, 5), clamp))
    assert (rectify_target(prediction, wild, clamp=1.0) - prediction).abs().max() <= 1.0 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@spans
def test_targets_and_losses_are_finite_at_the_ends_for_any_dtype_and_a_single_row(dtype, t, r):
    largest = torch.finfo(torch.float16).max
    prediction = torch.randn(1, 3).to(dtype)
    t, r = torch.tensor([t], dtype=dtype), torch.tensor([r], dtype=dtype)
    for size in (0.0, 1.0, largest):
        teacher = (size * torch.randn(1, 3).sign()).to(dtype)
        target = rcgm_target(prediction, torch.randn(1, 3).to(dtype), teacher, t, r, delta_t=0.01, clamp=1.0)
        for loss in (squared_error, barron):
            values = loss(prediction, target)
            assert values.dtype == torch.promote_types(dtype, torch.float32)
            assert torch.isfinite(values).all()
        assert torch.isfinite(rectify_target(prediction, teacher)).all()
        assert torch.isfinite(guided_velocity(prediction, teacher, -teacher, 0.8)).all()
    assert torch.isfinite(time_weight(t, r)).all()


def test_half_precision_inputs_are_computed_in_float32():
    # In bf16 this target is 0.7 off, in fp16 0.2: the factor 1 / delta_t.
    for dtype in (torch.bfloat16, torch.float16):
        v = torch.randn(4, 8).to(dtype)
        displacement = per_sample(torch.full((4,), 0.69), like=v) * v.float()
        target = rcgm_target(v, v, displacement, torch.full((4,), 0.7), torch.zeros(4), delta_t=0.01, clamp=1.0)
        torch.testing.assert_close(target, v.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", [squared_error, barron])
@pytest.mark.parametrize("of", ["rcgm", "rectify", "guided"])
def test_gradients_reach_the_students_prediction_only(loss, of):
    prediction, v, teacher, other = (torch.randn(3, 4, requires_grad=True) for _ in range(4))
    t, r = torch.full((3,), 0.6), torch.zeros(3)
    target = {
        "rcgm": lambda: rcgm_target(prediction, v, teacher, t, r, delta_t=0.01, clamp=1.0),
        "rectify": lambda: rectify_target(prediction, teacher),
        "guided": lambda: guided_velocity(v, teacher, other, 0.5),
    }[of]()
    assert not target.requires_grad
    loss(prediction, target).sum().backward()
    assert prediction.grad.abs().sum() > 0
    assert v.grad is teacher.grad is other.grad is None


def test_the_gradient_of_the_squared_error_is_the_step_to_the_target():
    prediction, g = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4) * 0.3
    squared_error(prediction, rectify_target(prediction, g)).sum().backward()
    torch.testing.assert_close(prediction.grad, 2 * g.clamp(-1, 1) / 4)


def test_losses_are_means_within_a_sample_and_kept_apart_between_samples():
    prediction, target = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    target[1] = 2.0
    assert squared_error(prediction, target).tolist() == [0.0, 4.0]
    assert barron(prediction, target).shape == (2,)
    assert barron(prediction, target)[0] == 0


def test_barron_at_alpha_two_is_the_squared_error_over_the_scale():
    prediction, target = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        barron(prediction, target, alpha=2.0, scale=0.1), squared_error(prediction, target) / 0.1
    )


def test_barron_grows_like_the_distance_where_far_and_like_its_square_where_near():
    near, far = (torch.full((1, 1), size, dtype=torch.float64) for size in (1e-6, 1.0))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert barron(2 * far, zero) / barron(far, zero) == pytest.approx(2, rel=1e-3)
    assert barron(2 * near, zero) / barron(near, zero) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.5, 3.0, 4.0])
def test_barron_grows_far_off_by_the_power_that_alpha_says(alpha):
    far, zero = torch.full((1, 1), 10.0, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert barron(2 * far, zero, alpha=alpha) / barron(far, zero, alpha=alpha) == pytest.approx(2**alpha, rel=1e-3)


def test_the_barron_weight_carries_no_gradient():
    prediction, target = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = barron(prediction, target)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    weight = (loss / squared_error(prediction, target)).detach()
    torch.testing.assert_close(gradient, weight[:, None] * 2 * (prediction - target).detach() / 3)


def test_the_time_weight_falls_from_four_to_one_as_the_span_grows():
    weights = time_weight(times(1.0, 0.8, 0.5, 0.0), times(0.0, 0.3, 0.5, 0.0))
    assert weights[0] == pytest.approx(1.0)
    assert weights[2] == weights[3] == pytest.approx(1 + math.tan(math.pi / 2.5))
    assert weights[0] < weights[1] < weights[2]
