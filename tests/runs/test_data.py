"""Masks, regularisation sets and TREAD in whole runs."""

import pytest


@pytest.mark.host_runs("masked")
def test_a_black_mask_leaves_no_loss_as_in_a_plain_run(runs):
    assert [step["train_loss"] for step in runs["masked"].plain_black.check().step_logs()] == [0, 0]
    for step in runs["masked"].black.check().step_logs():
        assert step["train_loss"] == 0
        assert [step[f"twinflow/{name}"] for name in ("rcgm", "real_velocity", "adversarial", "rectify")] == [0] * 4


@pytest.mark.host_runs("masked")
def test_a_white_mask_changes_nothing(runs):
    white, without = (getattr(runs["masked"], name).check().step_logs() for name in ("white", "without"))
    for step, same in zip(white, without, strict=True):
        assert step["train_loss"] == pytest.approx(same["train_loss"], rel=1e-5)
        assert step["twinflow/rcgm"] == pytest.approx(same["twinflow/rcgm"], rel=1e-5)
    assert white[0]["train_loss"] > 0


@pytest.mark.host_runs("regularised")
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_rows_of_a_regularisation_set_are_near_and_held_at_the_network_of_before_training(kind, runs):
    """A full fine-tune has no parent to be held at, in SimpleTuner as here: it is trained on the set's own pictures."""
    run = runs["regularised"][kind].check()
    found = run.of("micro-batch")
    held = [event for event in found if event["held"]]
    assert 0 < len(held) < len(found)
    for event in held:
        assert set(event["roles"]) == {"near"}
        assert event["loss"] == pytest.approx(event["apart"], rel=1e-5, abs=1e-9)
    assert any({*event["roles"]} - {"near"} for event in found if not event["held"])
    logged = [step["twinflow/regularisation"] for step in run.step_logs() if "twinflow/regularisation" in step]
    assert logged
    assert logged[-1] > 0 or kind == "lora"


@pytest.mark.host_runs("tread")
def test_with_tread_teacher_passes_leave_out_the_students_tokens_and_draw_no_routes_of_their_own(runs):
    run = runs["tread"].check()
    assert len(run.of("drawn")) == 4  # a micro-batch's pass with gradient each
    routes: list[tuple] = []
    repeated = 0
    for event in run.of("route"):
        if event["with_graph"]:
            routes = event["kept"]
        else:
            assert all(kept in routes for kept in event["kept"])
            repeated += 1
    assert repeated >= 4
    assert all(step["train_loss"] > 0 for step in run.step_logs())
