"""What a run keeps, foretold from its model's files."""

from types import SimpleNamespace

import pytest
from diffusers import SD3Transformer2DModel

from simpletuner_twinflow.host.settings.memory import memory, parameters_of, size
from simpletuner_twinflow.options import TwinFlowOptions
from testbed.pipelines import SD3

GUIDED = TwinFlowOptions(enabled=True, guidance_scale=2.0, guidance_reference="base")


def config(**changes):
    given = {
        "model_type": "full",
        "use_ema": True,
        "mixed_precision": "bf16",
        "pretrained_model_name_or_path": str(SD3),
    }
    return SimpleNamespace(**given | changes)


@pytest.fixture(scope="module")
def count():
    network = SD3Transformer2DModel.from_pretrained(SD3 / "transformer")
    return sum(it.numel() for it in network.state_dict().values())


def test_parameters_are_counted_in_the_files(count):
    assert parameters_of(vars(config())) == count


def test_of_a_model_that_is_not_here_or_is_damaged_nothing_is_known(tmp_path):
    assert parameters_of({"pretrained_model_name_or_path": "somebody/a-model"}) is None
    assert parameters_of({}) is None
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/model.safetensors").write_bytes(b"cut")
    assert parameters_of({"pretrained_model_name_or_path": str(tmp_path)}) is None
    assert "as large as the trained weights" in memory(GUIDED, config(pretrained_model_name_or_path=str(tmp_path)))


def test_a_full_fine_tune_keeps_averages_in_float32_and_the_first_weights_in_their_precision(count):
    assert f"EMA {size(4 * count)}, the base's first weights {size(2 * count)} on the accelerator" in memory(
        GUIDED, config()
    )
    assert f"first weights {size(4 * count)} on the acc" in memory(GUIDED, config(mixed_precision="no"))
    half = GUIDED.changed(guidance_base_dtype="bfloat16", guidance_base_device="cpu")
    assert f"first weights {size(2 * count)} on the CPU" in memory(half, config(mixed_precision="no"))
    assert "first weights" not in memory(GUIDED.changed(guidance_scale=1.0), config())
    assert not memory(GUIDED, config(use_ema=False)).startswith("EMA")


def test_a_lora_keeps_no_first_weights():
    assert "first weights" not in memory(GUIDED, config(model_type="lora"))
