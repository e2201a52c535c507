"""The command line, on the demo's tiny pipeline."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from simpletuner_twinflow import TwinFlowDiffusionScheduler, TwinFlowError, TwinFlowScheduler
from simpletuner_twinflow.cli import main
from simpletuner_twinflow.cli.contact_sheet import LABEL_WIDTH, MARGIN, contact_sheet
from simpletuner_twinflow.cli.samplers import few_step_scheduler

BASE = Path(__file__).parents[1] / "demo/base"
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


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), TwinFlowScheduler),
        (FlowMatchLCMScheduler(), TwinFlowScheduler),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), TwinFlowScheduler),
        (DDIMScheduler(prediction_type="epsilon"), TwinFlowDiffusionScheduler),
        (DDIMScheduler(prediction_type="v_prediction"), TwinFlowDiffusionScheduler),
    ],
    ids=["euler", "lcm", "unipc", "epsilon", "v"],
)
def test_sampler_is_that_of_the_pipelines_kind_of_model(current, wanted):
    found = few_step_scheduler(current)
    assert type(found) is wanted
    if wanted is TwinFlowScheduler:
        assert found.shift == 1.0


def test_pipeline_of_another_kind_is_refused_by_its_scheduler():
    with pytest.raises(TwinFlowError, match=r"DDIMScheduler with prediction_type 'sample'"):
        few_step_scheduler(DDIMScheduler(prediction_type="sample"))


def test_contact_sheet_cuts_a_long_label_at_its_row():
    image = Image.new("RGB", (32, 32), "red")
    sheet = np.asarray(contact_sheet([[image], [image]], ["word " * 100, ""], ["seed 0"]))
    top = sheet.shape[0] - 2 * (32 + MARGIN)
    below_first_row = sheet[top + 32 + MARGIN :, : LABEL_WIDTH + MARGIN]
    assert (below_first_row == 255).all()
    assert (sheet[top : top + 32, : LABEL_WIDTH + MARGIN] < 255).any()
