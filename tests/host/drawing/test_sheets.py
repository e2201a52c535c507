"""The contact sheet: which rows are on it, and that its pictures are decoded as a pipeline would."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from simpletuner_twinflow.host.drawing.latents import KeptRows, few_step_samples, many_step_samples
from simpletuner_twinflow.host.drawing.sheets import SampleSheet, chosen_rows, picture
from simpletuner_twinflow.host.settings.budget import SHEET_STEPS
from simpletuner_twinflow.quality.contact_sheet import LABEL_WIDTH, MARGIN

# The host asks the auto-encoder itself for a setting that is its configuration's.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing config attribute `latents_:FutureWarning")
CPU = torch.device("cpu")


def batch_of(*prompts):
    numbers = torch.arange(float(len(prompts)))
    return {"latents": numbers.view(-1, 1, 1, 1), "prompts": list(prompts), "scale": 3}


def rows_of(parts):
    return [(part["latents"].flatten().tolist(), part["prompts"]) for part in parts]


def test_each_prompt_comes_once_before_any_comes_twice():
    batches = [batch_of("a", "", "a", "b"), batch_of("b", "c")]
    assert rows_of(chosen_rows(batches, 3)) == [([0, 3], ["a", "b"]), ([1], ["c"])]
    assert rows_of(chosen_rows(batches, 4)) == [([0, 1, 3], ["a", "", "b"]), ([1], ["c"])]
    assert sum(len(part["prompts"]) for part in chosen_rows(batches, 9)) == 6


@pytest.fixture
def with_vae(trainer):
    """The trainer's model with an auto-encoder of SD3's kind, whose latents are shifted and scaled."""
    torch.manual_seed(0)
    channels = trainer.model.model.config.in_channels
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=2,
        shift_factor=0.7,
        scaling_factor=1.5,
    )
    trainer.model.vae = vae.eval()
    trainer.model.AUTOENCODER_SCALING_FACTOR = 1.5
    return trainer


def pixels(image):
    return np.asarray(image).astype(int)


@torch.no_grad()
def expected(vae, latents):
    decoded = vae.decode(latents / 1.5 + 0.7).sample[0]
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().int().permute(1, 2, 0).numpy()


def test_a_sample_is_decoded_as_a_pipeline_decodes(with_vae):
    latents = torch.randn(1, with_vae.model.model.config.in_channels, 40, 24)
    with torch.no_grad():
        shown = pixels(picture(with_vae.model, latents))
    whole = expected(with_vae.model.vae, latents)
    assert shown.shape == (192, 115, 3)
    small = torch.tensor(whole[:, :, :]).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(small, size=(192, 115), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert np.abs(shown - small.numpy()).mean() < 2


def test_sheet_shows_few_steps_base_and_data_of_the_same_noise(with_vae, batch):
    model = with_vae.distiller.family_model
    kept = KeptRows(4)
    kept.add(batch)
    sheet = SampleSheet(model, 2, seed=3)
    shown = pixels(sheet.picture(kept, nullcontext(), (nullcontext, 3, 2.0), CPU))
    side = pixels(picture(with_vae.model, batch["latents"][:1])).shape[0]
    [part] = chosen_rows(kept.batches, 2)
    columns = [few_step_samples(model, steps, part, 3) for steps in SHEET_STEPS]
    columns += [many_step_samples(model, 3, 2.0, part, 3), part["latents"]]
    top, left = shown.shape[0] - 2 * (side + MARGIN), LABEL_WIDTH + 2 * MARGIN
    for number, latents in enumerate(columns):
        x = left + number * (side + MARGIN)
        for row in range(2):
            y = top + row * (side + MARGIN)
            wanted = pixels(picture(with_vae.model, latents[row : row + 1]))
            assert np.array_equal(shown[y : y + side, x : x + side], wanted), (number, row)


def test_an_autoencoder_that_was_not_loaded_is_unloaded_again(with_vae, batch, monkeypatch):
    model, kept, loaded = with_vae.model, KeptRows(4), []
    kept.add(batch)
    vae, model.vae = model.vae, None
    monkeypatch.setattr(type(model), "load_vae", lambda self: loaded.append(1) or setattr(self, "vae", vae))
    SampleSheet(with_vae.distiller.family_model, 1, seed=3).picture(kept, nullcontext(), None, CPU)
    assert (len(loaded), model.vae) == (1, None)
