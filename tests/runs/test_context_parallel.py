"""Two processes that share each batch's tokens: what one process trains, draws, resumes and exports."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.runs.run import Run
from tests.runs.test_ranks import TERMS, noted
from tests.runs.test_resume import losses

LORA = ("whole_lora", "shared_lora")
ADAPTER = "pytorch_lora_weights.safetensors"


def shared(runs, name) -> list[Run]:
    """Both processes of a group's first run."""
    return runs[name][0] if name == "shared_lora" else runs[name]


def quality(run: Run) -> dict[str, float]:
    """What was logged of the samples, and of the networks' distances."""
    wanted = ("twinflow/quality/", "twinflow/fields/")
    logged = [event["values"] for event in run.of("log")]
    return {key: value for values in logged for key, value in values.items() if key.startswith(wanted)}


BOTH = pytest.mark.parametrize(
    "name",
    [
        pytest.param("shared_lora", marks=pytest.mark.host_runs(*LORA)),
        pytest.param("shared_full", marks=pytest.mark.host_runs("whole_lora", "shared_full")),
    ],
)


@BOTH
def test_both_processes_have_the_same_batches_roles_weights_and_averages(name, runs):
    one, other = (run.check() for run in shared(runs, name))
    assert one.of("batch") == other.of("batch")
    for kind in ("weights", "averages"):
        assert noted(one, kind) == noted(other, kind)
    roles = [event["roles"] for event in one.of("batch")]
    assert {"twin", "near", "any_step", "one_step", "sampler_step"} == {role for step in roles for role in step}
    assert len({event["bits"] for event in one.of("batch")}) == len(roles) == len({*noted(one, "weights")})


@BOTH
def test_loss_and_gradient_are_those_of_the_whole_network_on_one_process(name, runs):
    for run in shared(runs, name):
        assert len(run.check().of("loss")) == len(run.of("gradient")) >= 2
        for event in run.of("loss"):
            assert event["parts"] == pytest.approx(event["whole"], rel=1e-5)
        for event in run.of("gradient"):
            assert 0 <= event["apart"] < 3e-5 * event["largest"]  # 2e-5 without TwinFlow


@pytest.mark.host_runs(*LORA)
def test_run_in_a_group_is_the_run_of_one_process(runs):
    whole, (first, output, _) = runs["whole_lora"].check(), runs["shared_lora"]
    assert losses(first[0]).keys() == {1, 2, 3, 4}
    for step, expected in losses(whole).items():
        assert expected.keys() >= TERMS
        assert losses(first[0])[step] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    expected, found = load_file(whole.output / ADAPTER), load_file(output / ADAPTER)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.numpy() == pytest.approx(expected[key].numpy(), abs=2e-5)


@pytest.mark.host_runs(*LORA)
def test_group_measures_and_draws_what_one_process_does(runs):
    whole, (first, output, _) = runs["whole_lora"], runs["shared_lora"]
    assert any(name.startswith("twinflow/fields/") for name in quality(whole))
    assert quality(first[0]) == pytest.approx(quality(whole), rel=1e-2, abs=1e-3)
    sheet = "twinflow/contact_sheet-4.png"
    one, other = (np.asarray(Image.open(folder / sheet), dtype=float) for folder in (whole.output, output))
    assert one.std() > 0
    assert np.abs(one - other).mean() <= 2  # of 255; their decoders are not loaded alike
    drawn = {file.name for file in (whole.output / "validation_images").iterdir()}
    assert len(drawn) >= 2
    assert {file.name for file in (output / "validation_images").iterdir()} == drawn
    for run in first:
        assert {event["class"] for event in run.of("scheduler")} == {event["class"] for event in whole.of("scheduler")}
        assert len(run.of("scheduler")) > 0


@pytest.mark.host_runs(*LORA)
def test_group_resumes_to_the_bit(runs):
    first, output, resumed = runs["shared_lora"]
    for before, after in zip(first, resumed, strict=True):
        assert after.check().of("batch") == before.of("batch")[2:]
        for kind in ("weights", "averages"):
            assert noted(after, kind) == noted(before, kind)[2:]
    assert losses(resumed[0]) == {step: values for step, values in losses(first[0]).items() if step > 2}
    one, other = load_file(output / ADAPTER), load_file(resumed[0].output / ADAPTER)
    assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.host_runs("whole_lora", "shared_full")
def test_group_exports_a_network_and_its_averages(runs):
    output, file = runs["shared_full"][0].output, "diffusion_pytorch_model.safetensors"
    final = load_file(output / "pipeline/transformer" / file)
    averages = load_file(output / "checkpoint-2/transformer_ema" / file)
    assert final
    assert [key for key in final if not final[key].equal(averages[key])] == []
    saved = json.loads((output / "checkpoint-2/twinflow/state.json").read_text(encoding="utf-8"))
    assert saved["settings"]["context_parallel_size"] == 2
