"""An adapter on a streamed base: the teacher's and the base's passes are those of a base that stays where it is."""

import pytest


@pytest.mark.host_runs("swapped_blocks")
def test_swapped_blocks_change_nothing_but_where_the_frozen_weights_lie(runs):
    whole, swapped, checkpointed = (run.check().step_logs() for run in runs["swapped_blocks"])
    assert len(whole) == 3
    for key in ("train_loss", "grad_absmax", "twinflow/rcgm", "twinflow/adversarial", "twinflow/rectify"):
        for others in (swapped, checkpointed):
            assert [step.get(key) for step in others] == pytest.approx([step.get(key) for step in whole], rel=1e-4)


@pytest.mark.host_runs("swapped_blocks")
def test_blocks_are_sent_away_in_every_pass_without_what_is_trained(runs):
    for run in runs["swapped_blocks"][1:]:
        sent = run.check().of("sent")
        assert {event["with_grad"] for event in sent} == {True, False}
        assert any(event["moved"] for event in sent)
        assert all(event["trained"] and not event["trained_moved"] for event in sent)


@pytest.mark.host_runs("ramtorch")
def test_ramtorchs_layers_hold_the_base_and_every_step_is_as_it_must_be(runs):
    run = runs["ramtorch"].check()
    assert len(run.of("ramtorch layer")) > 30
    steps = run.of("step")
    assert len(steps) == 4
    assert all(step["base_untouched"] is True and step["weights_are_back"] for step in steps)
    assert all(step["loss_is_repeatable"] and not step["stream_moved"] for step in steps)
    assert steps[-1]["apart"]["sign"] > 0
    assert (run.output / "pytorch_lora_weights.safetensors").exists()
