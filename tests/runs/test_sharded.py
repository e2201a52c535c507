"""FSDP2 on two CPU ranks: what DDP trains on the same data, roles and noise; resumed to the bit; exported whole."""

import pytest
from safetensors.torch import load_file

from tests.runs.run import Run
from tests.runs.test_resume import losses

LORA = ("encoded", "by_ddp_lora", "sharded_lora")
FULL = ("encoded", "by_ddp_full", "sharded_full")
# Of weights after four steps; guidance's call for both prompts, which sharded weights do not take, rounds otherwise.
ROUNDING = 1e-4
BOTH = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("lora", marks=pytest.mark.host_runs(*LORA)),
        pytest.param("full", marks=pytest.mark.host_runs(*FULL)),
    ],
)
ADAPTER = "pytorch_lora_weights.safetensors"
NETWORK = "pipeline/transformer/diffusion_pytorch_model.safetensors"


def sums(run: Run, kind: str) -> list[list[float]]:
    """The sum over each whole parameter, or average, a step."""
    return [event["sums"] for event in run.check().of(kind)]


def bits(run: Run, kind: str) -> list[str]:
    """A digest a step."""
    return [event["bits"] for event in run.check().of(kind)]


def terms(run: Run) -> list[dict[str, float]]:
    """The loss and its terms, a step."""
    wanted = ("train_loss", "twinflow/")
    return [
        {key: value for key, value in step.items() if key.startswith(wanted)} for step in losses(run.check()).values()
    ]


def assert_trained_alike(ddp: list[Run], first: list[Run]) -> None:
    """Two ranks of another engine have the losses, weights and averages of DDP's, and one another's to the bit."""
    assert len(terms(ddp[0])) == 4
    for one, other in zip(terms(ddp[0]), terms(first[0]), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    for what in ("weights", "averages"):
        for one, other in zip(sums(ddp[0], what), sums(first[0], what), strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-4)
        assert bits(first[0], what) == bits(first[1], what)
        assert len({*bits(first[0], what)}) == 4


@BOTH
def test_sharded_ranks_have_the_losses_weights_and_averages_of_ddp(kind, runs):
    ddp, (first, _, _) = runs[f"by_ddp_{kind}"], runs[f"sharded_{kind}"]
    assert_trained_alike(ddp, first)
    assert all(step["sharded"] == step["trained"] > 0 for step in first[0].of("step"))


@pytest.mark.host_runs(*LORA)
def test_all_ranks_make_as_many_passes_though_their_rows_have_other_roles(runs):
    ddp, (first, _, _) = runs["by_ddp_lora"], runs["sharded_lora"]
    one, other = ([step["passes"] for step in run.of("step")] for run in first)
    assert one == other
    assert [step["passes"] for step in ddp[0].of("step")] != [step["passes"] for step in ddp[1].of("step")]


@BOTH
def test_sharded_run_resumes_to_the_bit(kind, runs):
    first, kept, resumed = runs[f"sharded_{kind}"]
    for before, after in zip(first, resumed, strict=True):
        assert bits(after, "weights") == bits(before, "weights")[2:]
        assert bits(after, "averages") == bits(before, "averages")[2:]
    assert {step: values for step, values in losses(first[0]).items() if step > 2} == losses(resumed[0])
    file = ADAPTER if kind == "lora" else NETWORK
    one, other = load_file(kept / file), load_file(resumed[0].output / file)
    assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.host_runs(*LORA)
def test_sharded_adapter_is_exported_whole(runs):
    ddp, (_, kept, _) = runs["by_ddp_lora"], runs["sharded_lora"]
    final, averages = load_file(kept / ADAPTER), load_file(kept / "checkpoint-4/ema" / ADAPTER)
    assert all(final[key].equal(averages[key]) for key in averages)
    same = load_file(ddp[0].output / ADAPTER)
    assert {key: value.shape for key, value in final.items()} == {key: value.shape for key, value in same.items()}
    for key, value in final.items():
        assert value.numpy() == pytest.approx(same[key].numpy(), abs=ROUNDING)
    assert (kept / "scheduler/scheduler_config.json").exists()


@pytest.mark.host_runs(*FULL)
def test_sharded_network_is_exported_whole_with_its_averages(runs):
    ddp, (_, kept, _) = runs["by_ddp_full"], runs["sharded_full"]
    final, same = load_file(kept / NETWORK), load_file(ddp[0].output / NETWORK)
    assert final.keys() == same.keys()
    assert not [key for key in final if "twinflow" in key]
    for key, value in final.items():
        assert value.numpy() == pytest.approx(same[key].numpy(), abs=ROUNDING)
