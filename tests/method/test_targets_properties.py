"""Laws of the targets whose answers are derived, for any fields, times and rows, drawn by hypothesis."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from simpletuner_twinflow.method.batch import RoleBatch
from simpletuner_twinflow.method.flow import per_sample, rollout
from simpletuner_twinflow.method.guidance import guided_velocities
from simpletuner_twinflow.method.losses import barron, rcgm_target, rectify_target, squared_error, time_weight
from simpletuner_twinflow.method.objective import ObjectiveSettings
from simpletuner_twinflow.method.roles import Role

values = st.floats(-1e6, 1e6)
clamps = st.floats(1e-3, 100)
orders = st.integers(1, 8)
unit = st.floats(0, 1)
slopes = st.floats(-3, -0.05) | st.floats(0.05, 3)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


class AffineFlow:
    """dx/dt = a x + b: x + b / a grows by e^(a (r - t)) from t to r, whatever t is."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def flow_map(self, x, t, r):
        return torch.exp(self.a * per_sample(r - t, like=x)) * (x + self.b / self.a) - self.b / self.a

    def velocity(self, x):
        return self.a * x + self.b

    def average_velocity(self, x, t, r):
        """(x - x_r) / (t - r), and the velocity at r = t."""
        span = per_sample(t - r, like=x)
        grown = torch.where(span == 0, self.a, -torch.expm1(-self.a * span) / torch.where(span == 0, 1.0, span))
        return grown * (x + self.b / self.a)


@given(slopes, values, st.lists(values, min_size=3, max_size=3), unit, unit, orders)
def test_a_rollout_of_the_average_velocity_ends_on_the_flow_after_any_number_of_jumps(a, b, x, t, part, order):
    flow, x = AffineFlow(a, b), tensor(x)
    t = tensor(t)
    r = part * t
    found = rollout(flow.average_velocity, x, t, r, order)
    scale = 1e-12 * (1e6 + abs(b / a) + float(x.abs().max())) * math.exp(3)
    torch.testing.assert_close(found.x_r, flow.flow_map(x, t, r), rtol=0, atol=scale)
    torch.testing.assert_close(found.displacement, x - found.x_r, rtol=0, atol=scale)


@given(slopes, st.floats(-3, 3), st.lists(st.floats(-3, 3), min_size=3, max_size=3), unit, unit, orders, clamps,
       st.floats(1e-4, 0.5))  # fmt: skip
def test_at_the_average_velocity_of_an_affine_flow_rcgms_residual_is_what_eulers_first_step_misses(
    a, b, x, t, part, order, clamp, delta_t
):
    """From t the path goes to s by Euler, `(1 - a d) (x + b / a)` where the flow has `e^(-a d)`; the miss grows on to r
    and is divided by delta_t. Nearer than delta_t nothing is rolled out: F - v remains."""
    flow, x, t = AffineFlow(a, b), tensor(x), tensor(t)
    r = part * t
    exact, v = flow.average_velocity(x, t, r), flow.velocity(x)
    s = torch.maximum(t - delta_t, r)
    x_s = x - per_sample(t - s, like=x) * v
    displacement = rollout(flow.average_velocity, x_s, s, r, order).displacement
    target = rcgm_target(exact, v, displacement, t, r, delta_t=delta_t, clamp=clamp)
    miss = 1 - a * delta_t - math.exp(-a * delta_t)
    residual = torch.exp(-a * (s - r)) * miss / delta_t * (x + b / a) if t - r >= delta_t else exact - v
    torch.testing.assert_close(target, exact - residual.clamp(-clamp, clamp), rtol=0, atol=1e-7)


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=5), unit, unit, clamps, st.floats(1e-4, 0.5))
def test_no_target_is_further_from_the_prediction_than_the_clamp(rows, t, part, clamp, delta_t):
    prediction, velocity, displacement = tensor(*rows).T.unsqueeze(-1)
    t = torch.full((len(rows),), t, dtype=torch.float64)
    target = rcgm_target(prediction, velocity, displacement, t, part * t, delta_t=delta_t, clamp=clamp)
    assert (target - prediction).abs().max() <= clamp * (1 + 1e-9) + 1e-9
    target = rectify_target(prediction, velocity, clamp=clamp)
    expected = [[f - max(-clamp, min(g, clamp))] for f, g, _ in rows]
    assert target.tolist() == expected


@given(st.lists(st.tuples(values, values), min_size=1, max_size=5), st.floats(1e-3, 10))
def test_barron_is_never_above_the_squared_error_over_its_scale_and_grows_with_it(rows, scale):
    prediction, target = tensor(*rows).T.unsqueeze(-1)
    robust, square = barron(prediction, target, scale=scale), squared_error(prediction, target)
    assert bool((robust >= 0).all())
    assert bool((robust <= square / scale * (1 + 1e-9)).all())
    order = square.argsort()
    assert bool((robust[order].diff() >= -1e-9 * robust.max()).all())


@given(unit, unit, unit)
def test_the_time_weight_lies_between_its_ends_and_falls_with_the_span(t, part, nearer):
    further, near = (time_weight(tensor(t), tensor(t * share)) for share in sorted((part, nearer)))
    assert 1 - 1e-12 <= further <= near <= 1 + math.tan(math.pi / 2.5) + 1e-12


@given(st.data(), st.lists(st.sampled_from(list(Role)), min_size=1, max_size=14), st.integers(0, 100),
       st.floats(1.25, 10), st.sampled_from(["l2", "barron"]))  # fmt: skip
def test_the_mean_over_turns_is_the_guided_velocity_for_any_rows(data, roles, first, scale, loss):
    low, high = sorted((data.draw(unit), data.draw(unit)))
    options = ObjectiveSettings(
        guidance_scale=scale, guidance_reference="base", enhanced_range=[low, high], loss=loss, adversarial_enabled=True
    )
    x, z = torch.randn(2, len(roles), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = tensor(*(data.draw(st.sampled_from([low, high]) | unit) for _ in roles))
    rows = RoleBatch(tuple(roles), x, z, t, r=t, sign=torch.ones_like(t), x_t=x + t[:, None] * (z - x), velocity=z - x)
    offsets = torch.arange(len(roles), dtype=torch.float64)

    def base(x_t, t, r, sign, prompts):
        prompt = torch.zeros_like(t) if prompts.unconditional else 1 + offsets[list(prompts.rows)]
        return x_t * prompt[:, None]

    turns = [guided_velocities(rows, options, base, base, turn=turn) for turn in range(first, first + 4)]
    mean = torch.stack([velocity for velocity, _ in turns]).mean(dim=0)
    real = tensor(*(role is not Role.twin for role in roles)) > 0
    guided = (real & (t >= low) & (t <= high))[:, None]
    full = rows.velocity + (scale - 1) * rows.x_t * (1 + offsets)[:, None]
    torch.testing.assert_close(mean, torch.where(guided, full, rows.velocity), rtol=1e-6, atol=1e-6)
    near = sum(role is Role.near for role in roles)
    jumps = int(real.sum()) - near
    asked = [count for _, count in turns]
    assert sum(asked) == (near + 2 * jumps if loss == "l2" else 4 * (near + jumps))
    if loss == "l2":  # no turn has more than its part, rounded up
        assert max(asked) <= math.ceil(near / 4) + math.ceil(jumps / 2)
