"""Pipelines of each kind, as the command loads and calls them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import convert_state_dict_to_diffusers
from lycoris import LycorisNetwork, create_lycoris
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from simpletuner_twinflow.cli import main
from simpletuner_twinflow.cli.drawing import draw, load_pipeline
from simpletuner_twinflow.quality.contact_sheet import LABEL_WIDTH, MARGIN
from simpletuner_twinflow.sampling.pipelines import guidance_arguments
from simpletuner_twinflow.sampling.stock import stock_scheduler
from tests.cli.command import BASE, PICTURE, SIZE, THREE, picture, sample
from tests.cli.pipelines import exact_omnigen, tiny_flux, tiny_sd, tiny_wan


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    """A folder with an adapter that changes pictures, as trainers write it."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE)
    pipeline.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.transformer))
    folder = tmp_path_factory.mktemp("lora")
    pipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    return folder


@pytest.fixture
def lycoris(tmp_path, monkeypatch) -> Path:
    """A folder with a LoKr adapter that changes pictures, as SimpleTuner writes it."""
    monkeypatch.setattr(LycorisNetwork, "TARGET_REPLACE_MODULE", ["Attention"])  # a preset is of the class
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE)
    monkeypatch.setattr("lycoris.wrapper.PRESET", {"full": {"target_module": ["Attention"]}})
    network = create_lycoris(pipeline.transformer, 1.0, 4, 1, algo="lokr", factor=4, warn_on_unmatched=False)
    network.apply_to()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    folder = tmp_path / "lycoris"
    folder.mkdir()
    save_file(network.state_dict(), folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("kind", ["lora", "lycoris"])
def test_adapter_changes_the_picture(kind, given, request, tmp_path):
    folder = request.getfixturevalue(kind)
    path = folder if given == "folder" else folder / "pytorch_lora_weights.safetensors"
    assert (
        sample(tmp_path / "without", "--prompt", THREE) == sample(tmp_path, "--prompt", THREE, "--lora", str(path)) == 0
    )
    assert (picture(tmp_path / PICTURE) != picture(tmp_path / "without" / PICTURE)).any()


def test_lycoris_adapter_of_another_model_is_refused(tmp_path, capsys):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"lycoris_somewhere_else.lokr_w1": torch.zeros(2, 2)}, file)
    assert sample(tmp_path, "--prompt", THREE, "--lora", str(file)) == 1
    assert "has no layer of SD3Transformer2DModel: it is of another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("class_name", "more", "words"),
    [
        ("WanImageToVideoPipeline", [], "WanImageToVideoPipeline draws from a picture"),
        ("BooguImagePipeline", [], "has no BooguImagePipeline: drawing with it needs SimpleTuner"),
        ("ACEStepPipeline", [], "ACEStepPipeline makes songs"),
        ("StableAudioPipeline", [], "StableAudioPipeline is not a pipeline of a model family that TwinFlow trains"),
        ("FluxPipeline", ["--frames", "5"], "--frames 5: FluxPipeline makes still pictures"),
    ],
)
def test_pipeline_that_cannot_be_drawn_with_is_refused_before_it_is_loaded(class_name, more, words, tmp_path, capsys):
    # A folder of nothing but its index: what would be loaded is not there.
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}), encoding="utf-8")
    arguments = ["sample", "--pipeline", str(tmp_path), "--prompt", THREE, "--output", str(tmp_path / "out"), *more]
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("embeds", "more", "scale"), [(True, [], 1.0), (True, ["--guidance", "2.5"], 2.5), (False, [], None)]
)
def test_network_that_embeds_guidance_is_given_the_scale_it_is_trained_with(embeds, more, scale, tmp_path, monkeypatch):
    tiny_flux(embeds).save_pretrained(tmp_path / "flux")
    given, real = [], FluxTransformer2DModel.forward

    def forward(self, *args, guidance=None, **kwargs):
        given.append(None if guidance is None else float(guidance))
        return real(self, *args, guidance=guidance, **kwargs)

    monkeypatch.setattr(FluxTransformer2DModel, "forward", forward)
    arguments = ["sample", "--pipeline", str(tmp_path / "flux"), "--prompt", THREE, "--output", str(tmp_path), *SIZE]
    assert main([*arguments, *more]) == 0
    assert given == [scale, scale]


def test_epsilon_model_is_drawn_with_fresh_noise_unless_asked_otherwise(tmp_path):
    tiny_sd().save_pretrained(tmp_path / "sd")
    arguments = ["sample", "--pipeline", str(tmp_path / "sd"), "--prompt", THREE, "--height", "64", "--width", "64"]
    for name, flags in (("default", []), ("fresh", ["--stochastic-ratio", "1"]), ("none", ["--stochastic-ratio", "0"])):
        assert main([*arguments, "--output", str(tmp_path / name), *flags]) == 0
    default, fresh, none = (picture(tmp_path / name / PICTURE) for name in ("default", "fresh", "none"))
    assert (default == fresh).all()
    assert (default != none).any()


def test_video_model_draws_animations_and_a_sheet_of_their_first_frames(tmp_path, capsys):
    tiny_wan().save_pretrained(tmp_path / "wan")
    arguments = ["sample", "--pipeline", str(tmp_path / "wan"), "--prompt", "a cat", "--output", str(tmp_path)]
    assert main([*arguments, *SIZE, "--frames", "5", "--fps", "20", "--seeds", "2"]) == 0
    for seed in (0, 1):
        with Image.open(tmp_path / f"00-a-cat-seed{seed}.gif") as video:
            assert video.n_frames == 5
            assert video.info["duration"] == 50
            assert video.size == (64, 64)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width == LABEL_WIDTH + 2 * MARGIN + 2 * (64 + MARGIN)
    assert "wrote 2 videos" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pipeline_whose_time_is_1_at_the_data_draws_an_exact_networks_data(steps, tmp_path):
    pipeline = exact_omnigen()
    vae = pipeline.vae
    decoded = []
    vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0]))
    how = {"num_inference_steps": steps, "height": 64, "width": 64} | guidance_arguments(pipeline, None)
    draw(pipeline, ["a cat"], [0], how, tmp_path)
    expected = vae.post_quant_conv(torch.full((1, 4, 8, 8), 0.7))
    torch.testing.assert_close(decoded[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beside_lora", [True, False])
def test_model_whose_exported_scheduler_noises_anew_is_drawn_so_unless_asked_otherwise(beside_lora, lora, tmp_path):
    base = BASE if beside_lora else tmp_path / "pipeline"
    scheduler = stock_scheduler(1, fresh_noise=True)
    if beside_lora:
        lora = shutil.copytree(lora, tmp_path / "lora")
        scheduler.save_pretrained(lora / "scheduler")
    else:
        StableDiffusion3Pipeline.from_pretrained(BASE, scheduler=scheduler).save_pretrained(base)
    given = str(lora) if beside_lora else None
    made = load_pipeline(str(base), lora=given).scheduler.settings
    assert (made.stochastic_ratio, made.first_sigma) == (1.0, 1.0)
    asked = load_pipeline(str(base), lora=given, settings={"stochastic_ratio": 0.0}).scheduler.settings
    assert asked.stochastic_ratio == 0.0
    assert load_pipeline(str(BASE)).scheduler.settings.stochastic_ratio == 0.0
