"""Two processes: they train the same weights, resume to the bit, export, and end together."""

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.run import Run
from tests.runs.test_resume import EVERYWHERE, FILES, losses, tensors

BOTH = ("two_ranks_lora", "two_ranks_full")
TERMS = {"twinflow/rcgm", "twinflow/real_velocity", "twinflow/adversarial", "twinflow/rectify"}


def noted(run: Run, kind: str) -> list[str]:
    """A digest a step."""
    return [event[kind] for event in run.check().of(kind)]


@pytest.mark.host_runs(*BOTH)
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("kind", ["weights", "averages"])
def test_both_ranks_train_the_same_weights_and_averages(kind, name, runs):
    first, _, resumed = runs[name]
    for ranks, steps in ((first, 6), (resumed, 3)):
        one, other = (noted(rank, kind) for rank in ranks)
        assert one == other
        assert len(set(one)) == steps


@pytest.mark.host_runs(*BOTH)
@pytest.mark.parametrize("name", BOTH)
def test_first_rank_says_once_how_many_share_the_work(name, runs):
    first, other = runs[name][0]
    assert first.log.count("data-parallel (DDP), 2 processes") == 1
    one = {"two_ranks_lora": 4, "two_ranks_full": 3}[name]
    assert f"{2 * one} rows of the data a step, {one} a process" in first.log
    assert "data-parallel" not in other.log


@pytest.mark.host_runs(*BOTH)
@pytest.mark.parametrize("name", BOTH)
def test_resumed_steps_are_those_of_the_uninterrupted_run(name, runs):
    first, _, resumed = runs[name]
    assert noted(resumed[0], "weights") == noted(first[0], "weights")[3:]
    assert noted(resumed[1], "averages") == noted(first[1], "averages")[3:]
    assert losses(resumed[0]) == {step: losses(first[0])[step] for step in (4, 5, 6)}
    assert all(values.keys() >= TERMS for values in losses(first[0]).values())


@pytest.mark.host_runs(*BOTH)
@pytest.mark.parametrize("name", BOTH)
def test_resumed_run_writes_the_checkpoint_of_the_uninterrupted_one_to_the_bit(name, runs):
    _, reference, resumed = runs[name]
    own = FILES[name.replace("two_ranks", "killed")]
    for file in (*own, *EVERYWHERE, "random_states_1.pkl"):
        before, after = tensors(reference / file), tensors(resumed[0].output / "checkpoint-6" / file)
        assert before.keys() == after.keys()
        assert before
        assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.mark.host_runs("two_ranks_lora", "damaged_on_ranks")
def test_no_rank_deletes_a_damaged_checkpoint_while_another_looks_at_it(runs):
    before, ranks = runs["two_ranks_lora"][0], runs["damaged_on_ranks"]
    assert "output/checkpoint-6/optimizer.bin is damaged" in ranks[0].log
    assert losses(ranks[0].check()) == losses(ranks[1].check()) == {4: losses(before[0])[4]}
    assert not (ranks[0].output / "checkpoint-6").exists()
    assert (ranks[0].output / "checkpoint-3/.guard").exists()


@pytest.mark.host_runs(*BOTH)
def test_two_ranks_export_their_averages(runs):
    adapter = runs["two_ranks_lora"][2][0].output
    name = "pytorch_lora_weights.safetensors"
    final, averages = load_file(adapter / name), load_file(adapter / "checkpoint-6/ema" / name)
    assert all(final[key].equal(averages[key]) for key in averages)
    output, name = runs["two_ranks_full"][2][0].output, "diffusion_pytorch_model.safetensors"
    final = load_file(output / "pipeline/transformer" / name)
    averages = load_file(output / "checkpoint-6/transformer_ema" / name)
    assert all(final[key].equal(averages[key]) for key in final if key != "pos_embed.pos_embed")
    assert list(output.glob("validation_images/step_6_*.png"))


@pytest.mark.host_runs("rank_raises")
def test_rank_that_raises_ends_the_other_within_a_minute(runs):
    one, other = runs["rank_raises"]
    [raised] = other.of("raised")
    assert one.code != 0
    assert other.code != 0
    assert one.of("ended")[-1]["at"] - raised["at"] < 60


@pytest.mark.host_runs("rank_gradients")
def test_each_ranks_gradient_is_that_of_one_process_with_the_rows_of_both(runs):
    ranks = [run.check() for run in runs["rank_gradients"]]
    roles = [[event["roles"] for event in run.of("roles")] for run in ranks]
    assert roles[0] != roles[1]
    for run in ranks:
        assert len(run.of("gradient")) == 2
        for event in run.of("gradient"):
            assert 0 <= event["apart"] < 1e-5 * event["largest"]
