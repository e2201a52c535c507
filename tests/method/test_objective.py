"""What the rows of a training step are trained on."""

import math

import pytest
import torch

from simpletuner_twinflow.method.flow import per_sample
from simpletuner_twinflow.method.losses import barron, squared_error, time_weight
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, training_step
from tests.method.oracles import GaussianFlow
from tests.method.training_step import ANY, EVERY, FULL, NEAR, ONE, TWIN, Recorder, batch, losses_of, only, prepared


@pytest.mark.parametrize("loss", ["l2", "barron"])
def test_near_rows_learn_the_real_velocity(loss):
    options = ObjectiveSettings(enhanced_ratio=0.0, loss=loss)
    rows = prepared((NEAR,) * 5, options)
    prediction = torch.randn_like(rows.x_t)
    expected = {"l2": squared_error, "barron": barron}[loss](prediction, rows.z - rows.x).sum()
    losses = losses_of(rows, prediction, options)
    torch.testing.assert_close(losses.terms["real_velocity"].total, expected)
    torch.testing.assert_close(losses.total, expected / 5)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_true_average_velocity_is_where_one_step_and_any_step_rows_rest(order):
    # On data that sits in one point the path is straight, each row's velocity the flow's own, and delta_t no matter.
    flow, roles = GaussianFlow(mean=0.7, std=1e-4), (ONE, ANY) * 8
    x = torch.full((16, 4), 0.7)
    rows = prepared(roles, data=(x, torch.randn(16, 4), torch.rand(16)), student=Recorder())

    def truth(x_t, t, r, *_):
        return flow.average_velocity(x_t.double(), t.double(), r.double()).float()

    options = ObjectiveSettings(estimate_order=order, enhanced_ratio=0.0)
    exact = truth(rows.x_t, rows.t, rows.r)
    assert losses_of(rows, exact, options, teacher=truth).terms["rcgm"].total / 16 < 1e-6
    assert losses_of(rows, exact + 0.1, options, teacher=truth).terms["rcgm"].total / 16 > 1e-2


def test_twin_rows_learn_the_velocity_of_their_own_path_and_not_a_guided_one():
    rows = prepared()
    prediction, at = torch.randn_like(rows.x_t), [1, 6]
    expected = squared_error(prediction[at], rows.z[at] - rows.x[at]).sum()
    torch.testing.assert_close(losses_of(rows, prediction).terms["adversarial"].total, expected)


def test_the_velocity_of_generated_samples_is_where_twin_rows_rest():
    # A generator x_hat = 0.5 z + 0.4 makes N(0.4, 0.5^2), whose field is known: no affine change of it does better.
    roles, twin = (TWIN,) * 50_000, GaussianFlow(mean=0.4, std=0.5)
    rows = prepared(roles, student=lambda x, *_: x - (0.5 * x + 0.4), data=batch(roles, (1,)))
    shift, slope = torch.zeros(2, requires_grad=True)
    prediction = twin.velocity(rows.x_t, rows.t) + shift + slope * rows.x_t
    gradient = torch.autograd.grad(losses_of(rows, prediction).total, (shift, slope))
    torch.testing.assert_close(torch.stack(gradient), torch.zeros(2), rtol=0, atol=0.02)


def test_the_teachers_rollout_goes_from_just_below_t_to_r_under_the_rows_own_prompts():
    rows, teacher, at = prepared(), Recorder(), [0, 2, 5, 7]
    rows.r[7] = rows.t[7] - 0.004  # less than delta_t to go
    losses_of(rows, options=FULL.changed(estimate_order=3, enhanced_ratio=0.0), teacher=teacher)
    assert len(teacher.calls) == 3
    for _, t, r, sign, condition, with_grad in teacher.calls:
        assert (r <= t).all()
        assert (sign == 1).all()
        assert condition == PromptRows(tuple(at))
        assert not with_grad
    start = torch.maximum(rows.t[at] - 0.01, rows.r[at])
    assert torch.equal(teacher.calls[0][1], start)
    assert torch.equal(teacher.calls[-1][2], rows.r[at])
    x_s = rows.x_t[at] - per_sample(rows.t[at] - start, like=rows.x_t) * rows.velocity[at]
    torch.testing.assert_close(teacher.calls[0][0], x_s)


def test_rectify_asks_both_fields_in_one_pass_about_the_rows_own_samples_noised_afresh():
    rows, student = prepared(), Recorder()
    at = [2, 5]
    prediction = torch.randn_like(rows.x_t)
    losses = losses_of(rows, prediction, student=student)
    ((x_t, t, r, sign, condition, with_grad),) = student.calls
    assert condition == PromptRows((2, 5, 2, 5))
    assert sign.tolist() == [-1, -1, 1, 1]
    assert torch.equal(x_t[:2], x_t[2:])
    assert torch.equal(t[:2], t[2:])
    assert torch.equal(r, t)
    assert not with_grad
    x_hat = rows.x_t[at] - prediction[at]
    noise = (x_t[:2] - (1 - per_sample(t[:2], x_t)) * x_hat) / per_sample(t[:2], x_t)
    assert noise.abs().max() < 5  # what was added to the samples is noise of its own, not the rows'
    assert not torch.allclose(noise, rows.z[at], atol=0.1)
    twin, real = student(x_t, t, r, sign, condition).chunk(2)
    torch.testing.assert_close(losses.terms["rectify"].total, (twin - real).clamp(-1, 1).square().mean((1, 2)).sum())


def test_the_total_is_the_weighted_sum_of_the_terms_over_all_rows_of_the_batch():
    rows = prepared()
    losses = losses_of(rows, torch.randn_like(rows.x_t).requires_grad_())
    weights = {"rcgm": 1.0, "real_velocity": 1.0, "adversarial": 0.7, "rectify": 0.3}
    assert {name: term.rows for name, term in losses.terms.items()} == {
        "rcgm": 4, "real_velocity": 2, "adversarial": 2, "rectify": 2,
    }  # fmt: skip
    total = sum(weight * losses.terms[name].total for name, weight in weights.items()) / 8
    torch.testing.assert_close(losses.total.detach(), total)
    assert losses.total.requires_grad
    assert not any(term.total.requires_grad for term in losses.terms.values())


@pytest.mark.parametrize("cuts", [[1] * 8, [3, 1, 4], [8]], ids=str)
def test_the_micro_batches_of_a_window_add_up_to_one_big_batch(cuts):
    # Fields that differ by a constant make the rectify term independent of the noise drawn for it.
    fields = lambda x, t, r, sign, condition: 0.4 * per_sample(sign, like=x).expand_as(x)  # noqa: E731
    teacher = lambda x, t, r, sign, condition: 0.3 * x + per_sample(t - r, like=x)  # noqa: E731
    rows, options = prepared(), FULL.changed(time_weighting=True, loss="barron")
    prediction = torch.randn_like(rows.x_t).requires_grad_()
    whole = losses_of(rows, prediction, options, fields, teacher)
    (whole_gradient,) = torch.autograd.grad(whole.total, prediction)
    gradient, total, start = torch.zeros_like(prediction), 0.0, 0
    for size in cuts:
        at = range(start, start := start + size)
        part = losses_of(only(rows, at), prediction[list(at)], options, fields, teacher).total * size / 8
        gradient += torch.autograd.grad(part, prediction)[0]
        total += part.detach()
    torch.testing.assert_close(total, whole.total.detach())
    torch.testing.assert_close(gradient, whole_gradient)


def test_time_weights_apply_to_real_rows_only():
    rows = prepared()
    prediction = torch.randn_like(rows.x_t)
    plain, weighted = (losses_of(rows, prediction, FULL.changed(time_weighting=on)) for on in (False, True))
    for name in ("adversarial", "rectify"):
        assert torch.equal(plain.terms[name].total, weighted.terms[name].total)
    near = [3, 4]
    assert torch.equal(time_weight(rows.t, rows.r)[near], torch.full((2,), float(time_weight(*torch.zeros(2, 1)))))
    ratio = weighted.terms["real_velocity"].total / plain.terms["real_velocity"].total
    torch.testing.assert_close(ratio, time_weight(rows.t, rows.r)[3])
    assert weighted.terms["rcgm"].total > plain.terms["rcgm"].total


def test_gradients_reach_the_students_prediction_only():
    weights = {name: torch.ones(1, requires_grad=True) for name in ("prediction", "student", "teacher")}
    rows = prepared()
    prediction = weights["prediction"] * torch.randn_like(rows.x_t)
    passes = {name: lambda x, *_, weight=weight: weight * x for name, weight in weights.items()}
    losses_of(rows, prediction, student=passes["student"], teacher=passes["teacher"]).total.backward()
    assert weights["prediction"].grad.abs() > 0
    assert weights["student"].grad is weights["teacher"].grad is None


def test_a_training_step_trains_every_row_of_a_network_once(generator):
    network = torch.nn.Linear(6, 6)
    trained = []

    def student(x_t, t, r, sign, condition):
        if torch.is_grad_enabled():
            trained.append((condition, torch.equal(r <= t, torch.ones(8, dtype=torch.bool))))
        return network(x_t.flatten(1)).view_as(x_t) * per_sample(sign, like=x_t)

    losses = training_step(*batch(), EVERY, FULL, student, student, generator)
    assert trained == [(PromptRows(tuple(range(8))), True)]
    losses.total.backward()
    assert network.weight.grad.abs().sum() > 0


def test_the_sampler_steps_of_a_run_decide_what_is_trained():
    # One output for each (t, r): with K = 1 nothing trains the jump from 0.6 to data, with K = 2 something does.
    def trained(step_times):
        jumps = {time: torch.zeros(1, requires_grad=True) for time in (1.0, 0.999, 0.6)}
        rows = prepared((ONE,) * 4, ObjectiveSettings(enhanced_ratio=0.0), step_times=step_times)
        near = {time: (rows.t - time).abs() < 1e-6 for time in jumps}
        prediction = sum(per_sample(near[time] * jumps[time], like=rows.x_t) for time in jumps).expand_as(rows.x_t)
        losses_of(rows, prediction, ObjectiveSettings(enhanced_ratio=0.0)).total.backward()
        return {time for time, jump in jumps.items() if jump.grad is not None and jump.grad != 0}

    assert trained((1.0,)) == {1.0}
    assert trained((0.999, 0.6)) == {0.999, 0.6}


@pytest.mark.parametrize(
    ("t", "r", "weight"), [(1.0, 0.0, 1.0), (0.8, 0.3, 1 + math.tan(math.pi / 5)), (0.5, 0.0, 1.7265425)]
)
def test_a_jump_is_weighted_by_its_length(t, r, weight):
    rows = only(prepared((ANY,)), [0])
    rows.t.fill_(t)
    rows.r.fill_(r)
    prediction = torch.randn_like(rows.x_t)
    options = ObjectiveSettings(enhanced_ratio=0.0)
    plain, weighted = (
        losses_of(rows, prediction, options.changed(time_weighting=on)).terms["rcgm"].total for on in (False, True)
    )
    torch.testing.assert_close(weighted, weight * plain)


def test_each_row_has_its_own_weight():
    """Near rows are weighted alike wherever they are: 1 + tan(pi / 2.5), and a one-step row from t = 1 by 1."""
    options = ObjectiveSettings(enhanced_ratio=0.0, time_weighting=True)
    rows = prepared((ONE, NEAR, NEAR), options)
    prediction = torch.randn_like(rows.x_t)
    near = squared_error(prediction, rows.velocity)[1:].sum()
    losses, plain = (losses_of(rows, prediction, options.changed(time_weighting=on)) for on in (True, False))
    torch.testing.assert_close(losses.terms["real_velocity"].total, near * 4.0776835)
    torch.testing.assert_close(losses.terms["rcgm"].total, plain.terms["rcgm"].total)


@pytest.mark.parametrize("delta_t", [0.25, 0.5])
@pytest.mark.parametrize("order", [1, 3])
def test_the_finite_difference_is_as_long_as_asked(delta_t, order):
    """From t = 1 to r = 0 under a teacher that is `a` everywhere: I = (1 - D) a, so R = (F - (1 - D) a) / D - v."""
    options = ObjectiveSettings(enhanced_ratio=0.0, delta_t=delta_t, target_clamp=100.0, estimate_order=order)
    rows = prepared((ONE,) * 3, options)
    prediction, a = torch.randn(2, *rows.x_t.shape)
    residual = (prediction - (1 - delta_t) * a) / delta_t - rows.velocity
    found = losses_of(rows, prediction, options, teacher=lambda x, *_: a).terms["rcgm"].total
    torch.testing.assert_close(found, residual.square().mean((1, 2)).sum(), rtol=1e-4, atol=0)
    clamped = (
        losses_of(rows, prediction, options.changed(target_clamp=0.25), teacher=lambda x, *_: a).terms["rcgm"].total
    )
    torch.testing.assert_close(clamped, residual.clamp(-0.25, 0.25).square().mean((1, 2)).sum(), rtol=1e-4, atol=0)


def test_rectify_moves_the_one_step_sample_from_the_twins_field_to_the_real_one():
    """dL/dF1 is 2 g over the elements, g the twin's velocity less the real one; here g is 0.3 everywhere."""
    rows = prepared((ONE, NEAR))
    prediction = torch.randn_like(rows.x_t).requires_grad_()
    options = FULL.changed(rectify_weight=0.5, enhanced_ratio=0.0)
    fields = lambda x, t, r, sign, *_: per_sample(torch.where(sign < 0, 0.8, 0.5), x).expand_as(x)  # noqa: E731
    losses = losses_of(rows, prediction, options, student=fields, teacher=fields)
    others = losses_of(rows, prediction, options.changed(rectify_weight=0.0), student=fields, teacher=fields)
    (gradient,) = torch.autograd.grad(losses.total - others.total, prediction)
    elements = prediction[0].numel()
    torch.testing.assert_close(gradient[0], torch.full_like(gradient[0], 0.5 * 2 * 0.3 / elements / 2))
    assert not gradient[1].any()


def test_rectify_is_measured_by_the_runs_distance():
    """Barron's, at a squared error of 0.09 and scale 1e-3: error / sqrt(error / 1.01e-6 + 1) / 1e-3."""
    rows = prepared((ONE,))
    fields = lambda x, t, r, sign, *_: per_sample(torch.where(sign < 0, 0.8, 0.5), x).expand_as(x)  # noqa: E731
    losses = losses_of(rows, options=FULL.changed(loss="barron"), student=fields, teacher=fields)
    expected = 0.09 / (0.09 / 1.01e-6 + 1) ** 0.5 / 1e-3
    torch.testing.assert_close(losses.terms["rectify"].total, torch.tensor(expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_share_of_clamped_residuals(cut):
    """Under a teacher that is v everywhere F = v + 0.01 leaves 0.01 (t - r) / delta_t."""
    options = FULL.changed(enhanced_ratio=0.0)
    x, z, t = batch((ONE, ANY, NEAR))
    rows = prepared((ONE, ANY, NEAR), options, data=(x, z, t))
    velocity = z - x

    def straight(x_t, t, r, sign, prompts):
        return velocity[list(prompts.rows)]

    shorter, longer = sorted(((rows.t - rows.r)[:2] * 0.01 / options.delta_t).tolist())
    assert 0.1 < shorter < 0.9 < longer
    clamp = {0: 1.1 * longer, 1: (shorter + longer) / 2, 2: 0.9 * shorter}[cut]
    losses = losses_of(rows, velocity + 0.01, options.changed(target_clamp=clamp), student=straight, teacher=straight)
    assert losses.watched["clamped"].rows == 2
    assert float(losses.watched["clamped"].total) == cut


def test_sign_separation_is_the_distance_of_the_twin_field():
    def by_sign(x_t, t, r, sign, prompts):
        return torch.ones_like(x_t) + 3.0 * (sign < 0).view(-1, 1, 1)

    losses = losses_of(prepared((ONE, ONE, NEAR)), student=by_sign)
    term = losses.watched["sign_separation"]
    assert (term.rows, float(term.total)) == (2, pytest.approx(6.0))


@pytest.mark.parametrize("loss", ["l2", "barron"])
def test_weights_of_the_picture_weigh_every_term(loss):
    options = FULL.changed(loss=loss)
    rows = prepared(EVERY, options, data=batch(EVERY, (2, 4, 6)))
    prediction = torch.randn_like(rows.x_t)

    def terms(weights):
        found = losses_of(rows, prediction, options, weights=weights)
        assert found.terms.keys() == {"rcgm", "real_velocity", "adversarial", "rectify"}
        return found

    whole, ones, none = (terms(weights) for weights in (None, torch.ones(8, 1, 4, 6), torch.zeros(8, 1, 4, 6)))
    half = torch.zeros(8, 1, 4, 6)
    half[..., :3] = 1.0
    left, right = terms(half), terms(1 - half)
    for name, term in whole.terms.items():
        assert torch.equal(ones.terms[name].total, term.total)
        assert none.terms[name].total == 0
        assert left.terms[name].total > 0
        if loss == "l2":  # the two halves add up to the whole
            torch.testing.assert_close(left.terms[name].total + right.terms[name].total, term.total)


def test_a_gradient_comes_from_where_the_weights_are_alone():
    rows = prepared(EVERY, FULL, data=batch(EVERY, (2, 4, 6)))
    prediction, weights = torch.randn_like(rows.x_t).requires_grad_(), torch.zeros(8, 1, 4, 6)
    weights[..., :2] = 1.0
    [gradient] = torch.autograd.grad(losses_of(rows, prediction, weights=weights).total, prediction)
    assert gradient[..., :2].abs().amin() > 0
    assert not gradient[..., 2:].any()
