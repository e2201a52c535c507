"""A LyCORIS adapter in whole runs: the teacher, the frozen base, checkpoints, the exported file and its readers."""

import json

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from lycoris import create_lycoris_from_weights
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from simpletuner_twinflow.host.checkpoints.files import STATE_FILE, TIME_CONDITIONING_FILE
from testbed.stock import run_without_plugin_and_host
from tests.runs.harness import ROOT
from tests.runs.terms import ALL_TERMS
from tests.runs.test_export import card, pixels, validation_picture
from tests.runs.test_resume import losses

pytestmark = pytest.mark.host_runs("lycoris")
ADAPTER = "pytorch_lora_weights.safetensors"
EMA = "ema/ema_model.safetensors"


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_step_lends_and_returns_the_adapters_weights_and_the_base_is_the_untouched_network(runs):
    steps = runs["lycoris"].whole.check().of("step")
    assert len(steps) == 8
    assert all(step["base_untouched"] is True for step in steps)  # against the network without its LyCORIS layers
    assert all(step["weights_are_back"] and step["batch_is_untouched"] for step in steps)
    assert all(step["loss_is_repeatable"] and not step["stream_moved"] for step in steps)
    without_grad = {(*call["weights"],) for step in steps for call in step["calls"] if not call["with_grad"]}
    assert len(without_grad) > len(steps)  # EMA's, the base's and the student's


def test_time_conditioning_is_trained_beside_it(runs):
    first, *_, last = runs["lycoris"].whole.check().of("step")
    assert first["apart"] == {"sign": 0, "target_time": 0, "repeated": 0}
    assert last["apart"]["sign"] > 0
    assert last["apart"]["target_time"] > 0
    assert losses(runs["lycoris"].whole).keys() == {1, 2, 3, 4}
    assert runs["lycoris"].whole.step_logs()[-1].keys() >= ALL_TERMS


def test_the_start_counts_the_layers_that_lycoris_changes(runs):
    assert "33 of 46 linear layers" in runs["lycoris"].whole.check().log


def test_files_are_those_of_a_plain_run(runs):
    kept = runs["lycoris"].kept
    plain = load_file(runs["lycoris"].plain.check().output / ADAPTER)
    assert {key: weight.shape for key, weight in load_file(kept / ADAPTER).items()} == {
        key: weight.shape for key, weight in plain.items()
    }
    assert load_file(kept / "checkpoint-4" / ADAPTER).keys() == plain.keys()
    assert load_file(kept / "checkpoint-4" / EMA).keys() == plain.keys()
    with safe_open(kept / ADAPTER, "pt") as file:
        assert json.loads(file.metadata()["lycoris_config"])["algo"] == "lokr"


def test_the_exported_adapter_holds_the_averages(runs):
    kept = runs["lycoris"].kept
    exported = load_file(kept / ADAPTER)
    assert same(exported, load_file(kept / "checkpoint-4" / EMA))
    assert not same(exported, load_file(kept / "checkpoint-4" / ADAPTER))


def test_a_resumed_run_writes_the_same_files_to_the_bit(runs):
    _, _, kept, resumed, _, _ = runs["lycoris"]
    again = resumed.check().output
    for file in (ADAPTER, f"checkpoint-4/{ADAPTER}", f"checkpoint-4/{EMA}"):
        assert same(load_file(kept / file), load_file(again / file)), file
    ours = [torch.load(folder / "checkpoint-4" / TIME_CONDITIONING_FILE, weights_only=True) for folder in (kept, again)]
    assert ours[0]["weights"].keys() == ours[0]["averages"].keys()
    assert all(same(ours[0][part], ours[1][part]) for part in ours[0])


def test_a_plain_run_goes_on_as_twinflow_and_then_without(runs):
    _, _, _, _, turned_on, turned_off = runs["lycoris"]
    assert [*losses(turned_on.check())] == [3, 4]
    assert "its time conditioning starts from zero" in turned_on.log
    assert len(turned_off.check().step_logs()) == 2
    assert (turned_on.output / "checkpoint-4" / STATE_FILE).exists()
    assert not (turned_on.output / "checkpoint-6" / STATE_FILE).exists()
    before, after = (load_file(turned_on.output / f"checkpoint-{step}" / ADAPTER) for step in (4, 6))
    changes = [(before[key] - after[key]).abs().max().item() for key in before]
    assert 0 < max(changes) < 0.005  # two steps of Adam at 1e-3


def test_the_cards_code_draws_the_validations_picture_with_diffusers_and_lycoris_alone(runs, tmp_path):
    run = runs["lycoris"].resumed.check()
    code = card(run).split("```python\n")[1].split("```")[0]
    assert "create_lycoris_from_weights" in code
    code = code.replace("'output/", f"'{run.output}/").replace('to("cuda"', 'to("cpu"')
    result = run_without_plugin_and_host(code, tmp_path)
    assert result.returncode == 0, result.stderr
    apart = np.abs(pixels(Image.open(tmp_path / "output.png")) - validation_picture(run)).max()
    assert apart <= 2


def test_lycoris_itself_loads_every_layer_of_it(runs):
    network = SD3Transformer2DModel.from_pretrained(ROOT / "demo/base/transformer")
    adapter, _ = create_lycoris_from_weights(1.0, str(runs["lycoris"].kept / ADAPTER), network)
    assert len(adapter.loras) == 33
