"""What a training step costs, and what it stands."""

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import per_sample
from simpletuner_twinflow.method.losses import squared_error
from simpletuner_twinflow.method.objective import ObjectiveSettings, compute_losses, prepare_role_batch, training_step
from simpletuner_twinflow.method.roles import Role, RoleSampler
from tests.method.training_step import ANY, EVERY, FULL, NEAR, ONE, STEP, STEPS, Recorder, batch, losses_of, prepared

COSTS = {
    "plain rcgm": (ObjectiveSettings(enhanced_ratio=0.0), 0, 0, 8, 0),
    "order 3": (ObjectiveSettings(enhanced_ratio=0.0, estimate_order=3), 0, 0, 12, 0),
    "guidance": (ObjectiveSettings(guidance_reference="ema"), 0, 12, 8, 0),
    "scale 1": (FULL.changed(guidance_scale=1, guidance_target="both"), 2, 0, 8, 4),
    "guidance by the base": (FULL.changed(guidance_reference="base"), 2, 6, 8, 4),
    "guidance in rectify": (FULL.changed(guidance_reference="base", guidance_target="rectify"), 2, 4, 8, 4),
    "in rectify by EMA": (FULL.changed(guidance_target="rectify"), 2, 4, 8, 4),
    "in both": (FULL.changed(guidance_reference="base", guidance_target="both"), 2, 10, 8, 4),
    "each row by the base": (FULL.changed(guidance_reference="base", loss="barron"), 2, 12, 8, 4),
    "everything": (FULL, 2, 12, 8, 4),
    "adversarial without rectify": (FULL.changed(rectify_weight=0.0), 2, 12, 8, 0),
    "image free": (FULL.changed(image_free=True), 8, 12, 8, 4),
}


@pytest.mark.parametrize(("options", "generated", "guidance", "rollout", "rectify"), COSTS.values(), ids=COSTS.keys())
def test_forward_passes_are_counted_and_a_term_that_is_off_costs_none(options, generated, guidance, rollout, rectify):
    roles = EVERY if options.adversarial_enabled else (ANY, ANY, ONE, NEAR, NEAR, ONE)
    generator, fields, teacher, base = Recorder(), Recorder(), Recorder(), Recorder()
    rows = prepared(roles, options, generator)
    losses = losses_of(rows, options=options, student=fields, teacher=teacher, base=base)
    expected = {
        "student": len(roles),
        "generated": generated,
        "guidance": guidance,
        "rollout": rollout,
        "rectify": rectify,
    }
    assert losses.forwards == expected
    assert generator.rows == losses.forwards["generated"]
    by_teacher = losses.forwards["guidance"] if options.guidance_reference == "ema" else 0
    assert teacher.rows == by_teacher + losses.forwards["rollout"]
    assert base.rows == losses.forwards["guidance"] - by_teacher
    assert fields.rows == losses.forwards["rectify"]
    assert len(generator.calls) == bool(generated)
    assert len(fields.calls) == bool(rectify)
    assert len(teacher.calls) == options.estimate_order + 2 * bool(by_teacher)
    assert ("rectify" in losses.terms) == bool(rectify)


def test_a_step_with_everything_on_costs_less_than_two_and_a_quarter_plain_ones():
    # A pass with gradient costs three forwards, one without costs one.
    forwards = losses_of(prepared()).forwards
    cost = (3 * forwards["student"] + sum(count for kind, count in forwards.items() if kind != "student")) / 3 / 8
    assert cost < 2.25


def test_no_step_waits_for_the_device(generator):
    # Tensors on the meta device have no values: whatever reads one back to Python raises.
    x, z, t = (tensor.to("meta") for tensor in batch())
    roles = (*EVERY[:-1], STEP)
    losses = training_step(x, z, t, roles, FULL, Recorder(), Recorder(), generator, sampler_steps=STEPS)
    assert losses.total.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("role", Role, ids=str)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.005, 0.5, 1.0])
@pytest.mark.parametrize("size", [0.0, 1.0, 6e4])
def test_a_single_row_of_any_dtype_gives_a_finite_loss_and_gradient_at_any_time(dtype, role, t, size, generator):
    options = FULL.changed(time_weighting=True, loss="barron" if t == 0.5 else "l2")

    def network(x_t, t, r, sign, condition):
        return (size * per_sample(sign, like=x_t) * x_t.sign()).to(dtype)

    x, z = torch.randn(2, 1, 3).to(dtype)
    rows = prepare_role_batch(x, z, torch.tensor([t]), (role,), options, network, generator, sampler_steps=STEPS)
    prediction = network(rows.x_t, rows.t, rows.r, rows.sign, None).requires_grad_()
    losses = compute_losses(rows, lambda: prediction, options, network, network, generator)
    losses.total.backward()
    assert losses.total.dtype == torch.promote_types(dtype, torch.float32)
    assert rows.t.dtype == rows.r.dtype == rows.sign.dtype == torch.float32
    assert torch.isfinite(losses.total)
    # A gradient beyond half precision's range is the network's own dtype speaking, not a fault of the loss.
    assert torch.isfinite(prediction.grad).all() or (dtype is torch.float16 and size > 1)


def test_a_teacher_gone_wild_moves_no_rcgm_target_by_more_than_the_clamp():
    rows = prepared((ONE, ANY) * 4)
    prediction = torch.randn_like(rows.x_t)
    for size in (1e4, 1e30):
        wild = lambda x, *_, size=size: size * torch.randn_like(x)  # noqa: E731
        options = ObjectiveSettings(enhanced_ratio=0.0, target_clamp=0.5)
        assert losses_of(rows, prediction, options, teacher=wild).terms["rcgm"].total <= 8 * 0.25 + 1e-5


def test_a_bf16_network_is_judged_in_float32():
    rows = prepared((NEAR,) * 4)
    prediction = rows.velocity.bfloat16()
    losses = losses_of(rows, prediction, ObjectiveSettings(enhanced_ratio=0.0))
    rounding = squared_error(prediction.float(), rows.velocity).sum()
    assert losses.total.dtype == torch.float32
    assert 0 < rounding == losses.terms["real_velocity"].total


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_a_window_of_sampled_roles_trains_every_term_whatever_the_batch_size(batch_size, generator):
    options = FULL.changed(target_step_count=2)
    sampler, terms = RoleSampler(options.roles(), seed=0, rank=0), set()
    for _ in range(-(-8 // batch_size)):
        roles = sampler.sample(batch_size, 0, 8)
        losses = training_step(*batch(roles), roles, options, Recorder(), Recorder(), generator, sampler_steps=STEPS)
        assert torch.isfinite(losses.total)
        terms |= set(losses.terms)
    assert terms == {"rcgm", "real_velocity", "adversarial", "rectify"}


def test_a_network_that_returns_another_shape_is_refused():
    rows, short = prepared(), lambda x, *_: x[:, :1]
    with pytest.raises(TwinFlowError, match="student's pass returned shape"):
        losses_of(rows, rows.x_t[:, :1])
    for passes in ({"student": short}, {"teacher": short}):
        with pytest.raises(TwinFlowError, match="predict returned shape"):
            losses_of(rows, **passes)
    with pytest.raises(TwinFlowError, match="predict returned shape"):
        prepared(student=short)
