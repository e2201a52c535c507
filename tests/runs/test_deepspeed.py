"""DeepSpeed's ZeRO 1 and 2 on two CPU ranks: what DDP trains on the same data; resumed to the bit; exported whole."""

import pytest
from safetensors.torch import load_file

from tests.runs.deepspeed_recipes import RATE
from tests.runs.test_resume import losses
from tests.runs.test_sharded import NETWORK, assert_trained_alike, bits

pytestmark = [pytest.mark.deepspeed, pytest.mark.host_runs("by_deepspeed")]
# At most a step of Adam is the learning rate; where a gradient is nearly 0 its rounding counts.
CLOSE = RATE / 20
STAGES = pytest.mark.parametrize("stage", [1, 2])


@pytest.fixture
def compared(runs):
    return runs["by_deepspeed"]


@STAGES
def test_zero_has_the_losses_weights_and_averages_of_ddp(stage, compared):
    assert_trained_alike(compared.by_ddp, compared.first[stage])


@STAGES
def test_each_rank_has_half_of_the_optimizer_and_weights_that_stay_where_deepspeed_put_them(stage, compared):
    for run in compared.first[stage]:
        steps = run.check().of("engine")
        assert [step["stage"] for step in steps] == [stage] * 4
        assert len({tuple(step["places"]) for step in steps}) == 1
        for step in steps:
            assert step["in_flat"] == len(step["places"]) > 0
            assert step["own"] == pytest.approx(step["all"] / 2, rel=1e-2)


@STAGES
def test_run_with_zero_resumes_to_the_bit(stage, compared):
    first, kept, resumed = compared.first[stage], compared.kept[stage], compared.resumed[stage]
    for before, after in zip(first, resumed, strict=True):
        assert bits(after, "weights") == bits(before, "weights")[2:]
        assert bits(after, "averages") == bits(before, "averages")[2:]
    assert {step: values for step, values in losses(first[0]).items() if step > 2} == losses(resumed[0])
    one, other = load_file(kept / NETWORK), load_file(resumed[0].output / NETWORK)
    assert all(one[key].equal(other[key]) for key in one)


@STAGES
def test_network_is_exported_whole_with_its_averages(stage, compared):
    final, same = load_file(compared.kept[stage] / NETWORK), load_file(compared.by_ddp[0].output / NETWORK)
    assert final.keys() == same.keys()
    assert not [key for key in final if "twinflow" in key]
    for key, value in final.items():
        assert value.numpy() == pytest.approx(same[key].numpy(), abs=CLOSE)


def test_a_checkpoint_of_ddp_is_refused_and_left(compared):
    for run in compared.on_ddp:
        assert run.code != 0
    log = compared.on_ddp[0].log
    assert "checkpoint-4 holds no files of DeepSpeed, and deepspeed_config is 'one of ZeRO 2'" in log
    assert {path.name for path in compared.on_ddp[0].output.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
