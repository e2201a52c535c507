"""One training step of the real trainer, asked again: what it calls, with what, and what it leaves."""

from collections import Counter

import pytest

from simpletuner_twinflow.method.roles import Role

WINDOW = 6  # rows of an optimizer step


@pytest.fixture
def steps(runs) -> list[dict]:
    """What the probe saw of each training step: six micro-batches a window, one row each."""
    found = runs["adversarial_lora"].check().of("step")
    assert len(found) == 4 * WINDOW
    return found


def guided(number: int, role: str) -> bool:
    """Whether it is the turn of a batch's one row: near rows' in every fourth batch, jumps' in every second.

    Args: number: of the batch, from 0, whose window and micro-batch add up to its turn.
    """
    every = {"near": 4, "one_step": 2, "any_step": 2, "sampler_step": 2}.get(role)
    return every is not None and (number // WINDOW + number % WINDOW) % every == 0


@pytest.mark.host_runs("adversarial_lora")
@pytest.mark.parametrize(
    "law", ["stream_moved", "stream_is_the_students", "loss_is_repeatable", "weights_are_back", "batch_is_untouched"]
)
def test_step_leaves_the_random_stream_the_weights_and_the_batch_as_the_students_pass_alone_would(law, steps):
    """`stream_moved` because the adapter has dropout: a stream that stands still would prove nothing."""
    assert all(step[law] for step in steps)


@pytest.mark.host_runs("adversarial_lora")
def test_loss_is_float32(steps):
    assert {step["loss_dtype"] for step in steps} == {"torch.float32"}


@pytest.mark.host_runs("adversarial_lora")
def test_each_window_deals_each_role_its_share(steps):
    for window in range(0, len(steps), WINDOW):
        roles = Counter(role for step in steps[window : window + WINDOW] for role in step["roles"])
        assert roles == {"any_step": 1, "near": 2, "one_step": 1, "sampler_step": 1, "twin": 1}


@pytest.mark.host_runs("adversarial_lora")
def test_one_pass_with_gradient_a_row_and_as_many_others_as_its_role_needs(steps):
    """Guidance takes two, in turn, a rollout of order 2 two, rectify's two fields two rows of one pass."""
    rows_without_gradient = {"one_step": 2 + 2, "any_step": 2, "sampler_step": 2, "near": 0, "twin": 0}
    for number, step in enumerate(steps):
        [role] = step["roles"]
        others = rows_without_gradient[role] + 2 * guided(number, role)
        assert sum(call["rows"] for call in step["calls"] if call["with_grad"]) == 1
        assert sum(call["rows"] for call in step["calls"] if not call["with_grad"]) == others


@pytest.mark.host_runs("adversarial_lora")
def test_guidance_asks_the_base_with_the_prompt_and_with_the_empty_prompt(steps):
    turns = [step for number, step in enumerate(steps) if guided(number, *step["roles"])]
    assert len({*(role for step in turns for role in step["roles"])}) > 1
    for step in turns:
        if step["roles"] == ["near"]:
            student, prompted, unprompted = step["calls"]
            assert prompted["prompt"] == student["prompt"] != unprompted["prompt"]
            assert prompted["pooled"] == student["pooled"] != unprompted["pooled"]
            assert prompted["timesteps"] == unprompted["timesteps"] == student["timesteps"]


@pytest.mark.host_runs("adversarial_lora")
def test_all_passes_of_the_loss_draw_the_same_dropout(steps):
    for step in steps:
        assert len({call["stream"] for call in step["calls"]}) == 1


@pytest.mark.host_runs("adversarial_lora")
def test_loss_changes_with_guidance_on_the_rows_whose_turn_it_is(steps):
    for number, step in enumerate(steps):
        with_guidance, without = step["loss_by_guidance"]
        assert (with_guidance != without) == guided(number, *step["roles"])


@pytest.mark.host_runs("adversarial_lora")
def test_guidance_runs_on_the_bases_weights_the_rollout_on_emas_and_rectifys_fields_on_the_students(steps):
    # In the first two windows EMA and student are the same weights still: the host starts with a decay of 0.
    for number, step in enumerate(steps):
        if number < 2 * WINDOW:
            continue
        [role], (student, *others) = step["roles"], step["calls"]
        fields = others[-1:] if role == "one_step" else []  # both in one pass
        guides = 2 * guided(number, role)
        base, teacher = others[:guides], others[guides : len(others) - len(fields)]
        assert all(call["weights"] == student["weights"] for call in fields)
        assert len({(*call["weights"],) for call in base}) <= 1
        assert len({(*call["weights"],) for call in teacher}) <= 1
        assert len({(*call["weights"],) for call in [student, *base[:1], *teacher[:1]]}) == 1 + bool(base) + bool(
            teacher
        )


@pytest.mark.host_runs("shapes")
def test_guidance_by_the_ema_runs_on_the_teachers_weights(runs):
    for step in runs["shapes"].check().of("step")[8:]:
        student, *others = step["calls"]
        guidance, rollout = others[:2], others[2:4]
        assert all(call["weights"] != student["weights"] for call in guidance + rollout)
        assert len({(*call["weights"],) for call in guidance + rollout}) == 1


@pytest.mark.host_runs("adversarial_lora")
def test_network_is_asked_with_the_times_of_the_rows_role(steps):
    asked = {role: set() for role in Role}
    for step in steps:
        [role], student = step["roles"], step["calls"][0]
        t, r, sign = student["timesteps"][0] / 1000, student["target_time"][0], student["sign"][0]
        assert sign == (-1 if role == "twin" else 1)
        asked[role].add((t, r))
        if role == "any_step":
            assert 0 <= r <= t
        elif role in ("near", "twin"):
            assert r == pytest.approx(t, abs=1e-5)
    assert asked["one_step"] == {(1.0, 0.0)}
    assert asked["sampler_step"] == {(1.0, 0.5), (0.5, 0.0)}  # of two steps
