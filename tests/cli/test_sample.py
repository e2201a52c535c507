"""`simpletuner-twinflow sample`, on the demo's tiny pipeline."""

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from simpletuner_twinflow import TwinFlowScheduler
from simpletuner_twinflow.quality.contact_sheet import MARGIN
from simpletuner_twinflow.sampling.schedule import SamplerSettings
from tests.cli.command import BASE, PICTURE, THREE, picture, sample


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


HALF = SamplerSettings(time_dtype="bfloat16")


@pytest.mark.parametrize(
    ("flags", "sigmas"),
    [
        ([], [1.0, 0.5]),
        (["--stochastic-ratio", "1"], [0.999, 0.6]),
        (["--sigma-max", "0.9"], [0.9, 0.45]),
        (["--sigma-min", "0.3"], [1.0, 0.3]),
        (["--shift", "3"], [1.0, 1.5 / 2]),
        (["--style", "multi", "--steps", "4"], [1.0, 0.75, 0.5, 0.25]),
        (["--steps", "4", "--time-dtype", "bfloat16"], HALF.step_times(4)),
        (["--steps", "4", "--dtype", "bfloat16"], HALF.step_times(4)),
        (["--dtype", "bfloat16", "--steps", "4", "--time-dtype", "float32"], SamplerSettings().step_times(4)),
    ],
    ids=str,
)
def test_network_is_called_at_the_sigmas_that_are_asked_for(flags, sigmas, tmp_path, monkeypatch):
    """With weights in bf16 these are the sigmas that a bf16 run trained."""
    given, real = [], SD3Transformer2DModel.forward

    def forward(self, *args, timestep, **kwargs):
        given.append(float(timestep[0]))
        return real(self, *args, timestep=timestep, **kwargs)

    monkeypatch.setattr(SD3Transformer2DModel, "forward", forward)
    assert sample(tmp_path, "--prompt", THREE, *flags) == 0
    assert given == pytest.approx([1000 * sigma for sigma in sigmas])


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--stochastic-ratio", "1"], {"stochastic_ratio": 1.0}),
        (["--stochastic-ratio", "0.5"], {"stochastic_ratio": 0.5}),
        (["--style", "any", "--stochastic-ratio", "0.5"], {"style": "any", "stochastic_ratio": 0.5}),
    ],
    ids=str,
)
def test_share_of_fresh_noise_is_the_one_that_is_asked_for(flags, settings, tmp_path):
    assert sample(tmp_path, "--prompt", THREE, *flags) == sample(tmp_path / "default", "--prompt", THREE) == 0
    pipeline = StableDiffusion3Pipeline.from_pretrained(BASE, scheduler=TwinFlowScheduler(**settings))
    how = {"guidance_scale": 0.0, "num_inference_steps": 2, "height": 64, "width": 64, "max_sequence_length": 8}
    wanted = pipeline(THREE, generator=torch.Generator().manual_seed(0), **how).images[0]
    assert (picture(tmp_path / PICTURE) == np.asarray(wanted)).all()
    assert (picture(tmp_path / PICTURE) != picture(tmp_path / "default" / PICTURE)).any()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stochastic-ratio", "2"], "stochastic_ratio is 2.0; allowed: in [0, 1]"),
        (["--sigma-max", "0"], "sigma_max is 0.0; allowed: in (0, 1]"),
        (["--sigma-min", "1"], "sigma_min is 1.0; allowed: in [0, sigma_max)"),
        (["--shift", "-1"], "shift is -1.0; allowed: above 0"),
        (["--sigma-max", "0.5", "--stochastic-ratio", "1"], "must fall"),
    ],
    ids=str,
)
def test_setting_that_cannot_be_sampled_with_is_refused_before_a_pipeline_is_looked_for(flags, words, tmp_path, capsys):
    assert sample(tmp_path, "--prompt", THREE, "--pipeline", "nowhere", *flags) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
