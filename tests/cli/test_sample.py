"""The command line, on the demo's tiny pipeline."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from simpletuner_twinflow.sampling.data_ward import DataWardTwinFlowScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPTextModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from simpletuner_twinflow import TwinFlowDiffusionScheduler, TwinFlowError, TwinFlowScheduler
from simpletuner_twinflow.cli import main
from simpletuner_twinflow.cli.contact_sheet import LABEL_WIDTH, MARGIN, contact_sheet
from simpletuner_twinflow.cli.sample import draw
from simpletuner_twinflow.sampling.choose import few_step_scheduler
from simpletuner_twinflow.sampling.pipelines import guidance_arguments, kind_of

BASE = Path(__file__).parents[2] / "demo/base"
SIZE = ("--height", "64", "--width", "64", "--max-sequence-length", "8")
THREE = "a handwritten digit 3"


def sample(folder, *arguments: str) -> int:
    return main(["sample", "--pipeline", str(BASE), *SIZE, "--output", str(folder), *arguments])


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    """A folder with an adapter that changes pictures, as trainers write it."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE)
    pipeline.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.transformer))
    folder = tmp_path_factory.mktemp("lora")
    pipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    return folder


def test_writes_a_picture_a_prompt_and_seed_and_a_contact_sheet(tmp_path, capsys):
    assert sample(tmp_path / "new/folder", "--prompt", THREE, "--prompt", "7 & 8!", "--seed", "5", "--seeds", "3") == 0
    names = {path.name for path in (tmp_path / "new/folder").iterdir()}
    pictures = {
        f"0{row}-{slug}-seed{seed}.png"
        for row, slug in enumerate(("a-handwritten-digit-3", "7-8"))
        for seed in (5, 6, 7)
    }
    assert names == pictures | {"contact_sheet.png"}
    assert "6 pictures" in capsys.readouterr().out
    sheet = picture(tmp_path / "new/folder/contact_sheet.png")
    last = picture(tmp_path / "new/folder/01-7-8-seed7.png")
    assert (sheet[-64 - MARGIN : -MARGIN, -64 - MARGIN : -MARGIN] == last).all()  # rows: prompts, columns: seeds


def test_draws_what_the_pipeline_draws_with_our_scheduler(tmp_path):
    sample(tmp_path, "--prompt", THREE, "--seed", "3", "--seed", "1", "--steps", "4")
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE, scheduler=TwinFlowScheduler())
    how = {"guidance_scale": 0.0, "num_inference_steps": 4, "height": 64, "width": 64, "max_sequence_length": 8}
    for seed in (1, 3):
        wanted = pipeline(THREE, generator=torch.Generator().manual_seed(seed), **how).images[0]
        assert (picture(tmp_path / f"00-a-handwritten-digit-3-seed{seed}.png") == np.asarray(wanted)).all()


@pytest.mark.parametrize("given", ["folder", "file"])
def test_lora_changes_the_picture(given, lora, tmp_path):
    path = lora if given == "folder" else lora / "pytorch_lora_weights.safetensors"
    assert (
        sample(tmp_path / "without", "--prompt", THREE) == sample(tmp_path, "--prompt", THREE, "--lora", str(path)) == 0
    )
    name = "00-a-handwritten-digit-3-seed0.png"
    assert (picture(tmp_path / name) != picture(tmp_path / "without" / name)).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pipeline", "nowhere", "--prompt", "x"], ["--pipeline nowhere", "no such folder"]),
        (["--pipeline", str(BASE / "vae"), "--prompt", "x"], ["--pipeline", "no model_index.json"]),
        (["--prompt", "x", "--lora", "none.safetensors"], ["--lora none.safetensors", "no such"]),
        (["--prompt", "x", "--lora", str(BASE)], ["--lora", "no *.safetensors"]),
        (["--prompt", "x", "--seed", "1", "--seed", "2", "--seeds", "2"], ["--seeds", "--seed once"]),
        (["--prompt", "x", "--height", "63"], ["StableDiffusion3Pipeline failed", "63"]),
        (["--prompt", "x", "--output", __file__], ["--output", "File exists"]),
        (["--prompt", "x", "--device", "toaster"], ["could not be loaded", "toaster"]),
    ],
    ids=["pipeline", "no pipeline", "lora", "no lora", "seeds", "height", "output", "device"],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(arguments, words, tmp_path, capsys):
    assert sample(tmp_path, *arguments) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("simpletuner-twinflow sample: ")]
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x", "--steps", "9"], ["--steps", "9", "1 to 8"]),
        (["--prompt", "x", "--steps", "0"], ["--steps", "0", "1 to 8"]),
        (["--prompt", "x", "--seeds", "0"], ["--seeds", "above 0"]),
        ([], ["--prompt"]),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        sample(tmp_path, *arguments)
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_runs_as_a_program_without_the_host(tmp_path):
    code = "import sys; sys.modules['simpletuner'] = None; from simpletuner_twinflow.cli import main; sys.exit(main())"
    arguments = ["sample", "--pipeline", BASE, *SIZE, "--prompt", THREE, "--output", tmp_path]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"SIMPLETUNER_TWINFLOW_DISABLED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "wrote 1 pictures" in result.stdout
    assert "1/1" in result.stderr  # the progress bar
    assert "Warning" not in result.stderr


def test_console_script_is_the_command_line():
    [script] = entry_points(group="console_scripts", name="simpletuner-twinflow")
    assert script.load() is main


EULER = FlowMatchEulerDiscreteScheduler(shift=3.0)


@pytest.mark.parametrize(
    ("class_name", "current", "wanted"),
    [
        ("StableDiffusion3Pipeline", EULER, TwinFlowScheduler),
        ("StableDiffusionXLPipeline", FlowMatchLCMScheduler(), TwinFlowScheduler),
        (
            "WanPipeline",
            UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            TwinFlowScheduler,
        ),
        ("OmniGenPipeline", FlowMatchEulerDiscreteScheduler(invert_sigmas=True), DataWardTwinFlowScheduler),
        ("BooguImagePipeline", EULER, DataWardTwinFlowScheduler),
        ("StableDiffusionPipeline", DDIMScheduler(prediction_type="epsilon"), TwinFlowDiffusionScheduler),
        ("PixArtSigmaPipeline", DDIMScheduler(prediction_type="v_prediction"), TwinFlowDiffusionScheduler),
    ],
)
def test_sampler_is_that_of_the_pipelines_kind_of_model(class_name, current, wanted):
    found = few_step_scheduler(current, kind_of(class_name))
    assert type(found) is wanted
    if issubclass(wanted, TwinFlowScheduler):
        found.set_timesteps(2)
        assert found.sigmas.tolist() == pytest.approx([0.999, 0.6, 0.0])


def test_pipeline_of_another_kind_is_refused_by_its_scheduler():
    with pytest.raises(TwinFlowError, match=r"DDIMScheduler with prediction_type 'sample'"):
        few_step_scheduler(DDIMScheduler(prediction_type="sample"), kind_of("StableDiffusionPipeline"))


@pytest.mark.parametrize(
    ("class_name", "more", "words"),
    [
        ("WanImageToVideoPipeline", [], "WanImageToVideoPipeline draws from a picture"),
        ("BooguImagePipeline", [], "has no BooguImagePipeline: drawing with it needs SimpleTuner"),
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


def tiny_vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(latent_channels=channels, block_out_channels=(4,), norm_num_groups=2, shift_factor=0.0)


def tiny_flux(guidance_embeds: bool) -> FluxPipeline:
    base = StableDiffusion3Pipeline.from_pretrained(BASE)
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=base.text_encoder_3.config.d_model, axes_dims_rope=(4, 4, 8),
        pooled_projection_dim=base.text_encoder.config.hidden_size, guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return FluxPipeline(
        transformer=network, vae=tiny_vae(4), scheduler=EULER, text_encoder=CLIPTextModel(base.text_encoder.config),
        tokenizer=base.tokenizer, text_encoder_2=base.text_encoder_3, tokenizer_2=base.tokenizer_3,
    )  # fmt: skip


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


def tiny_wan() -> WanPipeline:
    tokenizer = StableDiffusion3Pipeline.from_pretrained(BASE).tokenizer_3
    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
    ))  # fmt: skip
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=64,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(tokenizer=tokenizer, text_encoder=encoder, transformer=network, vae=vae, scheduler=scheduler)


def test_video_model_draws_animations_and_a_sheet_of_their_first_frames(tmp_path, capsys):
    tiny_wan().save_pretrained(tmp_path / "wan")
    arguments = ["sample", "--pipeline", str(tmp_path / "wan"), "--prompt", "a cat", "--output", str(tmp_path)]
    assert main([*arguments, *SIZE, "--frames", "5", "--fps", "20", "--seeds", "2"]) == 0
    for seed in (0, 1):
        with Image.open(tmp_path / f"00-a-cat-seed{seed}.gif") as video:
            assert video.n_frames == 5
            assert video.info["duration"] == 50
            assert video.size == (64, 64)
    sheet = Image.open(tmp_path / "contact_sheet.png")
    assert sheet.width == LABEL_WIDTH + 2 * MARGIN + 2 * (64 + MARGIN)
    assert "wrote 2 videos" in capsys.readouterr().out


class ExactOmniGen(OmniGenTransformer2DModel):
    """Knows data that is 0.7 everywhere: it is given 1 - t and answers x - z."""

    def forward(self, hidden_states, timestep, *args, **kwargs):
        super().forward(hidden_states, timestep, *args, **kwargs)
        t = (1 - timestep.float()).reshape(-1, 1, 1, 1)
        return ((0.7 - hidden_states) / t,)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pipeline_whose_time_runs_towards_the_data_draws_an_exact_networks_data(steps, tmp_path):
    words = Tokenizer(WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    network = ExactOmniGen(
        in_channels=4, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, num_layers=1,
        pad_token_id=0, vocab_size=16, max_position_embeddings=128, original_max_position_embeddings=128,
        pos_embed_max_size=64, time_step_dim=32,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "type": "su"},
    )  # fmt: skip
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(4,) * 4, norm_num_groups=2, scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipeline = OmniGenPipeline(
        transformer=network, vae=vae, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"),
        scheduler=few_step_scheduler(FlowMatchEulerDiscreteScheduler(invert_sigmas=True), kind_of("OmniGenPipeline")),
    )  # fmt: skip
    decoded = []
    vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0]))
    how = {"num_inference_steps": steps, "height": 64, "width": 64} | guidance_arguments(pipeline, None)
    draw(pipeline, ["a cat"], [0], how, tmp_path)
    expected = vae.post_quant_conv(torch.full((1, 4, 8, 8), 0.7))
    torch.testing.assert_close(decoded[0], expected, rtol=0, atol=1e-4)


def test_contact_sheet_cuts_a_long_label_at_its_row():
    image = Image.new("RGB", (32, 32), "red")
    sheet = np.asarray(contact_sheet([[image], [image]], ["word " * 100, ""], ["seed 0"]))
    top = sheet.shape[0] - 2 * (32 + MARGIN)
    below_first_row = sheet[top + 32 + MARGIN :, : LABEL_WIDTH + MARGIN]
    assert (below_first_row == 255).all()
    assert (sheet[top : top + 32, : LABEL_WIDTH + MARGIN] < 255).any()
