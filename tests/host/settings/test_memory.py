"""What a run keeps, foretold from its model's files."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from simpletuner_twinflow.host.settings.examined import configured
from simpletuner_twinflow.host.settings.memory import (
    OPTIMIZERS,
    Training,
    memory,
    parts,
    peak,
    size,
    training_of,
)
from simpletuner_twinflow.host.settings.network import Network, network_of
from simpletuner_twinflow.options import TwinFlowOptions
from testbed.pipelines import SD3

GUIDED = TwinFlowOptions(enabled=True, guidance_scale=2.0, guidance_reference="base")


def config(**changes):
    given = {
        "model_family": "sd3",
        "model_type": "full",
        "use_ema": True,
        "mixed_precision": "bf16",
        "pretrained_model_name_or_path": str(SD3),
    }
    return configured(given | changes)


@pytest.fixture(scope="module")
def count():
    network = SD3Transformer2DModel.from_pretrained(SD3 / "transformer")
    return sum(it.numel() for it in network.state_dict().values())


def test_of_a_model_that_is_not_here_no_sizes_are_said(tmp_path):
    said = memory(GUIDED, config(pretrained_model_name_or_path=str(tmp_path)))
    assert "as large as the trained weights" in said["memory"]
    assert said["in all"].startswith("not foretold: the network's files are not on this machine")


def test_a_full_fine_tune_keeps_averages_in_float32_and_the_first_weights_in_their_precision(count):
    assert (
        f"EMA {size(4 * count)}, the base's first weights {size(2 * count)} on the accelerator"
        in memory(GUIDED, config())["memory"]
    )
    assert f"first weights {size(4 * count)} on the acc" in memory(GUIDED, config(mixed_precision="no"))["memory"]
    half = GUIDED.changed(guidance_base_dtype="bfloat16", guidance_base_device="cpu")
    assert f"first weights {size(2 * count)} on the CPU" in memory(half, config(mixed_precision="no"))["memory"]
    assert "first weights" not in memory(GUIDED.changed(guidance_scale=1.0), config())["memory"]
    assert not memory(GUIDED, config(use_ema=False))["memory"].startswith("EMA")


def test_a_lora_keeps_no_first_weights():
    assert "first weights" not in memory(GUIDED, config(model_type="lora"))["memory"]


TINY = Network(parameters=1000, blocks=4, width=8, patch=2, dual=False, adapted=40)


def test_parts_of_a_full_fine_tune_in_16_bits():
    found = parts("sd3", TINY, Training(full=True, optimizer=6, base_copy=2, rows=3, tokens=10))
    trained = 1000 + 8 * (8 + 260)
    assert found["weights"] == found["gradients"] == found["teacher's weights"] == 2 * trained
    assert found["optimizer"] == 6 * trained
    assert found["EMA"] == 4 * trained
    assert found["the base's first weights"] == 2 * 1000
    token = 3 * 10 * 8 * 2
    assert found["activations"] == pytest.approx(token * (4 + 2 + 35.2))
    assert "gathered blocks" not in found


def test_parts_of_a_lora_on_a_quantised_base_without_checkpointing():
    found = parts("sd3", TINY, Training(full=False, base_width=0.5, rank=2, rows=1, tokens=10, checkpointing=False))
    trained = 2 * 40 + 8 * (8 + 260)
    assert found["weights"] == 0.5 * 1000 + 2 * trained
    assert found["activations"] == pytest.approx(4 * 27.9 * 10 * 8 * 2)
    assert "optimizer" not in found
    assert "the base's first weights" not in found


def test_activations_of_a_family_that_was_not_counted_are_left_out():
    assert "activations" not in parts("somebody's", TINY, Training(full=True, tokens=10))


def test_gradients_come_to_be_while_activations_go_but_not_in_an_accumulated_window():
    found = {"weights": 1.0, "gradients": 5.0, "activations": 3.0}
    assert peak(found, accumulates=False) == 6.0
    assert peak(found, accumulates=True) == 9.0


def test_what_decides_is_read_from_the_hosts_keys(tmp_path):
    data = tmp_path / "data.json"
    data.write_text('[{"resolution": 64, "resolution_type": "pixel"}, {"dataset_type": "text_embeds"}]', "utf-8")
    given = config(
        model_type="lora",
        base_model_precision="int8-quanto",
        lora_rank="8",
        optimizer="torch-adamw",
        gradient_accumulation_steps=2,
        tokenizer_max_length=12,
        data_backend_config=str(data),
    )
    found = training_of(GUIDED, given, TINY)
    assert (found.base_width, found.rank, found.optimizer) == (1.0, 8, 4)
    assert found.ema  # an adapter's is on the accelerator whatever ema_device says
    assert found.accumulates
    assert found.tokens == (64 / 8 / 2) ** 2 + 77 + 12
    full = config(ema_device="accelerator")
    assert training_of(GUIDED, full, TINY).base_copy == 2
    assert training_of(GUIDED, full, TINY).ema
    assert not training_of(GUIDED, config(ema_device="cpu"), TINY).ema
    assert training_of(GUIDED.changed(guidance_base_device="cpu"), full, TINY).base_copy == 0


@pytest.mark.filterwarnings("ignore:Parameter `foreach`:DeprecationWarning")  # of the host's own optimizers
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize(("place", "dtype"), [(0, torch.bfloat16), (1, torch.float32)])
def test_optimizers_keep_as_many_bytes_as_is_said(name, place, dtype):
    from simpletuner.helpers.training.optimizer_param import optimizer_choices

    if (name, dtype) == ("adamw_bf16", torch.float32):
        return  # it takes bfloat16 alone
    weight = nn.Parameter(torch.randn(64, 64, dtype=dtype))
    made = optimizer_choices[name]
    optimizer = made["class"](
        [weight], **{"lr": 1e-4} | {k: v for k, v in made["default_settings"].items() if k != "lr"}
    )
    for _ in range(2):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    states = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor) and value.dim()]
    kept = sum(value.numel() * value.element_size() for value in states)
    assert kept == OPTIMIZERS[name][place] * weight.numel()


def test_the_files_say_how_large_a_network_is(count):
    found = network_of(vars(config()))
    assert found.parameters == count
