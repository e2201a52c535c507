"""The card of a run: what it says of training and export, and code that Python reads and a stock pipeline takes."""

import ast
import inspect
import re
from types import SimpleNamespace

import diffusers
import pytest
import torch
from PIL import Image
from simpletuner.helpers.models.ltxvideo2.connectors import LTX2TextConnectors
from simpletuner.helpers.models.ltxvideo2.pipeline_ltx2 import LTX2Pipeline
from simpletuner.helpers.publishing import metadata
from simpletuner.helpers.training.state_tracker import StateTracker

from simpletuner_twinflow.host.checkpoints.model_card import normalises_prompts_twice
from simpletuner_twinflow.sampling.stock import stock_scheduler, stock_settings
from testbed.host_models.demo import BASE, demo_model
from testbed.host_models.trainer import host_trainer

CONNECTORS = {f"{kind}_connector_num_learnable_registers": None for kind in ("video", "audio")}
CONNECTORS |= {f"{kind}_connector_num_attention_heads": 2 for kind in ("video", "audio")}
CONNECTORS |= {f"{kind}_connector_attention_head_dim": 4 for kind in ("video", "audio")}
CONNECTORS |= {"caption_channels": 8, "text_proj_in_factor": 3, "video_hidden_dim": 8, "audio_hidden_dim": 8}
OURS = "generator=torch.Generator().manual_seed("  # in our code alone


@pytest.fixture
def card(in_folder, tmp_path, monkeypatch):
    """Writes a card by the host's own function. Arguments: of the config, and the folder below the output's."""
    monkeypatch.setattr(StateTracker, "model_type", "sd3", raising=False)

    def write(folder="", images=None, **changes):
        trainer = host_trainer(demo_model(output_dir=str(tmp_path), **changes))
        monkeypatch.setattr(StateTracker, "args", trainer.config)
        monkeypatch.setattr(StateTracker, "accelerator", trainer.accelerator)
        before = dict(vars(trainer.config))
        (tmp_path / folder).mkdir(exist_ok=True)
        metadata.save_model_card(
            trainer.model,
            repo_id="mine",
            images=images,
            repo_folder=str(tmp_path / folder),
            validation_prompts=["a 3"],
            prompt="a 3",
        )
        assert vars(trainer.config) == before, "the settings are back"
        return (tmp_path / folder / "README.md").read_text(encoding="utf-8")

    return write


def code(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]


def call(text):
    """The names and values of the arguments that the code calls the pipeline with."""
    [found] = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "model_output"
    ]
    while not isinstance(found, ast.Call):
        found = found.value
    return {keyword.arg: ast.unparse(keyword.value) for keyword in found.keywords}


def test_card_names_steps_guidance_weights_and_branch(card):
    text = card("pipeline", twinflow_target_step_count=4)
    for words in ("Target steps: `4`", "Guidance scale: `0`", "Weights: EMA", "Adversarial branch: on"):
        assert words in text


def test_card_without_the_branch_and_with_the_students_weights_says_so(card):
    text = card("pipeline", twinflow_adversarial_enabled=False, twinflow_export_weights="student")
    assert "Adversarial branch: off" in text
    assert "Weights: student" in text


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_code_calls_a_stock_pipeline_with_arguments_that_it_has(kind, card):
    text = code(card("pipeline" if kind == "full" else "", model_type=kind, twinflow_target_step_count=2))
    given = call(text)
    assert given.keys() <= inspect.signature(diffusers.StableDiffusion3Pipeline.__call__).parameters.keys()
    assert given["num_inference_steps"] == "2"
    assert given["guidance_scale"] == "0.0"
    assert given["max_sequence_length"] == "8"
    made = f"FlowMatchEulerDiscreteScheduler({stock_settings(stock_scheduler(2))})"
    assert ("load_lora_weights" in text) == (made in text) == (kind == "lora")
    assert "torch.manual_seed" not in text, "the call's own seed settles the picture"
    assert (str(BASE) in text) == (kind == "lora")
    assert ", dtype=torch." in text, "diffusers warns of torch_dtype from 0.40 on"


def test_checkpoints_card_keeps_the_hosts_code(card):
    text = card("checkpoint-2")
    assert "Weights: a checkpoint's, to resume from" in text
    assert OURS not in code(text)
    assert OURS in code(card("pipeline"))


def test_card_of_another_run_is_the_hosts(card):
    assert "TwinFlow" not in card("pipeline", twinflow_enabled=False)


@pytest.mark.parametrize(
    ("given", "size"), [("64X32", ("64", "32")), ("96px", ("96", "96")), ("64x32,128", ("64", "32"))]
)
def test_size_is_the_validations_however_it_is_written(given, size, card):
    arguments = call(code(card("pipeline", validation_resolution=given)))
    assert (arguments["width"], arguments["height"]) == size


@pytest.mark.parametrize("rate", ["24", None], ids=["as the host's parser makes it", "left out"])
def test_card_shows_a_film_whose_frame_rate_is_no_number(rate, card):
    film = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white", "black")]
    assert "url: ./assets/image_0_0.gif" in card("pipeline", images={"a_3": [film]}, framerate=rate)


@pytest.mark.parametrize(("per_modality", "further"), [(False, False), (True, True)], ids=["2.0", "2.3"])
@torch.no_grad()
def test_prompts_are_normalised_twice_to_any_effect_by_connectors_of_each_modality_alone(per_modality, further):
    """The host's own packing of the text encoder's states, before its connectors and left out."""
    hosts = LTX2TextConnectors(**CONNECTORS, per_modality_projections=per_modality)
    states, mask = torch.randn(1, 6, 8, 3) + torch.arange(3), torch.ones(1, 6)
    packed = LTX2Pipeline._pack_text_embeds(states, mask.sum(dim=1), "cpu")
    once, twice = (hosts(given, mask, padding_side="left")[0] for given in (states.flatten(2), packed))
    assert torch.allclose(once, twice, atol=1e-4) != further
    assert normalises_prompts_twice(SimpleNamespace(connectors=hosts)) == further
