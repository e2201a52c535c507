"""The code of a card that makes a song loads the adapter into stock diffusers' network as it was trained."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from simpletuner.helpers.models.minimaxmusic.modular_pipeline import MiniMaxMusic3ModularPipeline

from simpletuner_twinflow.host.checkpoints.adapter_file import described, whole_change
from simpletuner_twinflow.host.checkpoints.song_card import READ, song_example
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from testbed.host_models.flow import host_model

pytestmark = pytest.mark.usefixtures("in_folder")


def card(folder, family="minimaxmusic", **changes):
    model = host_model(family, folder, validation_prompt="a tone", validation_lyrics="la", **changes)
    model.twinflow_model = family_model_for(model)
    return song_example(model, "base", "output")


def test_adapter_is_read_into_the_stock_network_as_it_was_trained(folder, tmp_path):
    model = host_model("minimaxmusic", folder, model_type="lora", lora_rank=2, lora_alpha=6)
    network = model.model
    stock = diffusers.MiniMaxMusic3Transformer1DModel.from_config(network.config)
    stock.load_state_dict(network.state_dict(), strict=False)
    network.requires_grad_(False)
    model.add_lora_adapter()
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    layers = whole_change(network, get_peft_model_state_dict(network), {})
    header = described(network, layers)
    MiniMaxMusic3ModularPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata=header
    )
    names = {"pipeline": SimpleNamespace(transformer=stock), "load_file": load_file}
    exec(READ.format(file=repr(f"{tmp_path}/pytorch_lora_weights.safetensors")), names)
    given = {"hidden_states": torch.randn(1, 8, 5), "encoder_hidden_states": torch.randn(1, 5, 16)}
    given["timestep"] = torch.tensor([0.3])
    with torch.no_grad():
        expected, found = (each.eval()(**given, return_dict=False)[0] for each in (network, stock))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            ["FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, invert_sigmas=True", "This needs diffusers alone"],
        ),
        ({"lora_format": "comfyui"}, ['lora_format="comfyui"', "This needs SimpleTuner"]),
        (
            {"twinflow_time_conditioning": "none", "twinflow_adversarial_enabled": False},
            [
                "TwinFlowScheduler(stochastic_ratio=1.0, sigma_max=1.0, invert_sigmas=True",
                "pip install simpletuner-twinflow",
            ],
        ),
    ],
)
def test_code_names_what_it_needs_and_the_calls_of_the_validation(changes, words, folder):
    text = card(folder, twinflow_target_step_count=2, **changes)
    for word in [
        *words,
        "prompt='a tone'",
        "lyrics='la'",
        "num_inference_steps=2",
        "guider.disable()",
        "load_components(dtype=",
    ]:
        assert word in text
    compile(text.split("```python")[1].split("```")[0], "card", "exec")


def test_a_family_without_a_stock_pipeline_has_its_sigmas_in_words(folder):
    text = card(folder, "ace_step", twinflow_target_step_count=2)
    assert "at the sigmas 1, 0.5, 0." in text
    assert "```" not in text
