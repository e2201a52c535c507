"""What each row of a training step is: where it sits on the path, what it is asked, where its sample comes from."""

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.flow import interpolate
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows, prepare_role_batch
from tests.method.training_step import ANY, EVERY, FULL, NEAR, ONE, TWIN, Recorder, batch, losses_of, prepared


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 2, 3, 3)], ids=str)
def test_each_role_sits_where_it_is_asked_to(shape):
    data = batch(EVERY, shape)
    rows = prepared(data=data, step_times=(0.999, 0.6))
    for row, role in enumerate(EVERY):
        t, r, sign = float(rows.t[row]), float(rows.r[row]), float(rows.sign[row])
        if role is ONE:
            assert t in (pytest.approx(0.999), pytest.approx(0.6))
            assert r == 0
        else:
            assert (t == data[2][row]) == (role is not TWIN)
        if role in (NEAR, TWIN):
            assert r == t
        if role is ANY:
            assert 0 <= r < t
        assert sign == (-1 if role is TWIN else 1)
        assert torch.equal(rows.x[row], data[0][row]) == (role is not TWIN)
        assert torch.equal(rows.z[row], data[1][row]) == (role is not TWIN)
    x_t, velocity = interpolate(rows.x, rows.z, rows.t)
    assert torch.equal(rows.x_t, x_t)
    assert torch.equal(rows.velocity, velocity)
    assert rows.having(ONE) == (2, 5)


def test_the_target_time_of_any_step_rows_is_uniform_below_t():
    roles = (ANY,) * 5_000
    rows = prepared(roles, data=(torch.zeros(5_000, 1), torch.zeros(5_000, 1), torch.full((5_000,), 0.8)))
    share = (rows.r / rows.t).sort().values
    torch.testing.assert_close(share, torch.linspace(0, 1, 5_000), rtol=0, atol=0.03)


def _times_of(roles, sampling):
    count = len(roles)
    data = (torch.zeros(count, 1), torch.zeros(count, 1), torch.full((count,), 0.8))
    return prepared(roles, FULL.changed(time_sampling=sampling), data=data)


def test_uniform_times_are_uniform_and_so_is_the_target_time_below():
    rows = _times_of((NEAR, ANY) * 5_000, "uniform")
    near, jumps = rows.having(NEAR), rows.having(ANY)
    even = torch.linspace(0, 1, 5_000)
    torch.testing.assert_close(rows.t[list(near)].sort().values, even, rtol=0, atol=0.03)
    torch.testing.assert_close(rows.t[list(jumps)].sort().values, even, rtol=0, atol=0.03)
    share = rows.r[list(jumps)] / rows.t[list(jumps)]
    torch.testing.assert_close(share.sort().values, even, rtol=0, atol=0.03)
    assert torch.equal(rows.r[list(near)], rows.t[list(near)])


def test_logit_normal_times_are_the_logistic_function_of_normal_numbers_and_jumps_go_from_one_to_the_other():
    rows = _times_of((NEAR, ANY) * 5_000, "logit_normal")
    near, jumps = list(rows.having(NEAR)), list(rows.having(ANY))
    normal = torch.distributions.Normal(0, 1)
    one = normal.icdf((torch.arange(5_000) + 0.5) / 5_000).sigmoid()
    torch.testing.assert_close(rows.t[near].sort().values, one, rtol=0, atol=0.05)
    assert torch.equal(rows.r[near], rows.t[near])
    assert (rows.r[jumps] < rows.t[jumps]).all()
    # The larger of two has the square of one's distribution function; the smaller is its mirror image.
    larger = normal.icdf(((torch.arange(5_000) + 0.5) / 5_000).sqrt()).sigmoid()
    for times in (rows.t[jumps], 1 - rows.r[jumps]):
        torch.testing.assert_close(times.sort().values, larger, rtol=0, atol=0.05)


def test_times_of_twin_rows_are_uniform_and_their_own():
    roles = (TWIN,) * 5_000
    rows = prepared(roles, data=(torch.zeros(5_000, 1), torch.zeros(5_000, 1), torch.full((5_000,), 0.8)))
    torch.testing.assert_close(rows.t.sort().values, torch.linspace(0, 1, 5_000), rtol=0, atol=0.03)


def test_a_twin_row_is_a_one_step_sample_under_its_own_prompt_noised_afresh():
    student = Recorder()
    rows = prepared(student=student)
    ((z1, t, r, sign, condition, with_grad),) = student.calls
    assert condition == PromptRows((1, 6))
    assert not with_grad
    assert t.tolist() == sign.tolist() == [1, 1]
    assert r.tolist() == [0, 0]
    at = [1, 6]
    torch.testing.assert_close(rows.x[at], z1 - student(z1, t, r, sign, condition))
    assert not torch.equal(rows.z[at], z1)


def test_the_noise_of_a_twin_row_is_independent_of_the_sample_it_is_mixed_with():
    roles = (TWIN,) * 5_000
    # x_hat = z1 / 2 here, so noise used twice would show as a correlation of one.
    rows = prepared(roles, student=lambda x, *_: x / 2, data=batch(roles, (1,)))
    correlation = torch.corrcoef(torch.stack([rows.x.flatten(), rows.z.flatten()]))[0, 1]
    assert abs(correlation) < 0.05
    assert rows.z.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("first", [1.0, 0.999, 0.9])
def test_samples_start_in_pure_noise_at_the_samplers_first_time_and_on_the_path_of_their_data_later(first):
    roles, student = (TWIN,) * 64, Recorder()
    x = torch.full((64, 50), 100.0)
    data = x, torch.zeros_like(x), torch.rand(64)
    prepared(roles, FULL, student, data=data, step_times=(first, 0.6))
    x_s, s, r = student.calls[0][:3]
    at_first = s == torch.tensor(first)
    assert 0 < at_first.sum() < 64
    assert x_s[at_first].mean().abs() < 0.2
    assert x_s[at_first].std() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(x_s[~at_first].mean(dim=1), torch.full((32,), 40.0), rtol=0, atol=0.5)
    assert not r.any()


def test_image_free_rows_depend_on_no_image_and_cost_one_pass_for_all():
    options, student = FULL.changed(image_free=True), Recorder()
    x, z, t = batch()
    data = torch.full_like(x, torch.nan), z, t
    rows = prepared(options=options, student=student, data=data, step_times=(0.999, 0.6))
    assert torch.isfinite(rows.x_t).all()
    ((z1, s, _, _, condition, _),) = student.calls
    assert condition == PromptRows(tuple(range(8)))
    torch.testing.assert_close(s, torch.full((8,), 0.999))
    torch.testing.assert_close(rows.x, z1 - 0.999 * student(*student.calls[0][:5]))
    assert torch.equal(rows.z[3], z[3])  # real rows keep the noise they came with
    assert rows.generated == 8


def test_one_step_rows_share_the_samplers_times_evenly_with_no_time_preferred():
    times, counts = (0.999, 0.75, 0.5), torch.zeros(3)
    for seed in range(600):
        roles = (ONE,) * 4
        data = (torch.zeros(4, 1),) * 2 + (torch.rand(4),)
        t = prepared(roles, seed=seed, data=data, step_times=times).t
        drawn = torch.stack([(t == torch.tensor(time)).sum() for time in times])
        assert sorted(drawn.tolist()) == [1, 1, 2]
        counts += drawn
    torch.testing.assert_close(counts / counts.sum(), torch.full((3,), 1 / 3), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_half_precision_data_are_computed_in_float32(dtype):
    x, z, t = batch((NEAR,) * 4, dtype=dtype)
    rows = prepared((NEAR,) * 4, data=(x, z, t))
    assert rows.velocity.dtype == rows.x_t.dtype == torch.float32
    assert torch.equal(rows.velocity, z.float() - x.float())


def test_rows_follow_from_the_generator_alone_and_no_global_stream_moves():
    data, before = batch(), torch.get_rng_state()
    one, same, other = (prepared(data=data, seed=seed) for seed in (1, 1, 2))
    losses_of(one, torch.zeros_like(one.x_t))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("x", "z", "t", "r", "x_t"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_the_callers_tensors_are_left_as_they_were():
    data = batch()
    copies = [tensor.clone() for tensor in data]
    losses_of(prepared(data=data))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(data, copies, strict=True))


def test_a_twin_row_without_the_adversarial_branch_is_refused():
    with pytest.raises(TwinFlowError, match="adversarial branch is off"):
        prepared((NEAR, TWIN), ObjectiveSettings())


@pytest.mark.parametrize(
    "change",
    [
        lambda x, z, t, roles: (x, z[:, :1], t, roles),
        lambda x, z, t, roles: (x, z, t[:-1], roles),
        lambda x, z, t, roles: (x, z, t, roles[:-1]),
        lambda x, z, t, roles: (x, z, t[:, None], roles),
    ],
    ids=["noise", "times", "roles", "times with another axis"],
)
def test_inputs_that_do_not_agree_row_by_row_are_refused(change, generator):
    x, z, t, roles = change(*batch(), EVERY)
    with pytest.raises(TwinFlowError, match="must agree row by row"):
        prepare_role_batch(x, z, t, roles, FULL, Recorder(), generator)


@pytest.mark.parametrize("step_times", [(), (0.999, 0.0), (1.5,)])
def test_step_times_outside_of_the_path_are_refused(step_times):
    with pytest.raises(TwinFlowError, match=r"step_times is .*allowed"):
        prepared(step_times=step_times)
