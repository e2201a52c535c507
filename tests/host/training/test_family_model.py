"""A family's batches, times and direction, as the objective asks for them."""

import pytest
import torch
from diffusers import LCMScheduler

from simpletuner_twinflow import TwinFlowConfigError, TwinFlowDiffusionScheduler, TwinFlowError, TwinFlowScheduler
from simpletuner_twinflow.host.training.diffusion_model import DiffusionFamilyModel, family_model_for
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.method.objective import PromptRows
from testbed.host_models import diffusion
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_batch, host_model

pytestmark = pytest.mark.usefixtures("in_folder")
T, R = torch.tensor([0.9, 0.7, 0.5, 0.3]), torch.tensor([0.0, 0.3, 0.5, 0.1])
SIGN = torch.tensor([1.0, -1.0, 1.0, -1.0])


def test_flow_and_diffusion_families_have_a_model_each(folder):
    assert type(family_model_for(host_model("sd3", folder))) is FamilyModel
    assert type(family_model_for(diffusion.host_model("sdxl", folder))) is DiffusionFamilyModel


@pytest.mark.parametrize("name", ["sd3", "sana", "omnigen"])  # omnigen's sigmas are shares of data
def test_times_that_a_batch_is_given_are_the_times_it_has(name, folder):
    model = host_model(name, folder)
    family_model, batch = family_model_of(model), host_batch(model)
    x = torch.randn_like(batch["noisy_latents"])
    there = family_model.at(batch, x, T, R, SIGN)
    torch.testing.assert_close(family_model.sigma(there), T)
    assert torch.equal(there["noisy_latents"], x)
    assert "twinflow_sign" not in batch


def test_own_times_are_those_of_the_velocity(folder):
    model = host_model("sd3", folder)
    family_model, batch = family_model_of(model), host_batch(model)
    there = family_model.at_own_times(batch)
    assert torch.equal(there["timesteps"], batch["timesteps"])
    assert torch.equal(there["twinflow_target_time"], family_model.sigma(batch))  # r = t
    assert (there["twinflow_sign"] == 1).all()


def test_signed_time_asks_at_t_less_half_of_r_and_the_velocity_at_half_of_t(folder):
    model = host_model("sd3", folder, twinflow_time_conditioning="signed_time")
    family_model, batch = family_model_of(model), host_batch(model)
    there = family_model.at(batch, batch["noisy_latents"], T, R, SIGN)
    torch.testing.assert_close(there["timesteps"].float(), 1000 * SIGN * (T - R / 2))
    own = family_model.at_own_times(batch)["timesteps"].float()
    torch.testing.assert_close(own, 1000 * family_model.sigma(batch) / 2)  # t - r / 2 at r = t


def test_pass_on_some_rows_is_that_part_of_the_pass_on_all(folder):
    model = host_model("sd3", folder)
    family_model, batch = family_model_of(model), host_batch(model)
    predict, x = family_model.predict_with(batch), batch["noisy_latents"].float()
    every = predict(x, T, R, SIGN, PromptRows((0, 1, 2, 3)))
    some = predict(x[[2, 0]], T[[2, 0]], R[[2, 0]], SIGN[[2, 0]], PromptRows((2, 0)))
    # Other kernels for other row counts: rounding, which these large random weights amplify.
    assert (some - every[[2, 0]]).abs().max() < 1e-3 * (every[2] - every[0]).abs().max()
    assert not every.requires_grad


def test_velocity_is_the_networks_output_in_float32(folder):
    family_model = family_model_of(host_model("sd3", folder))
    raw = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16)
    found = family_model.velocity({"model_prediction": raw}, {})
    assert found.dtype == torch.float32
    assert found.equal(raw.float())


@pytest.mark.parametrize("way", ["training_only", "signed_time"])
def test_modules_are_there_where_the_time_is_conditioned_in_training_alone(way, folder):
    family_model = family_model_of(host_model("sd3", folder, twinflow_time_conditioning=way))
    modules, parameters = family_model.time_conditioning_modules(), family_model.time_conditioning_parameters()
    assert [*modules] == (["twinflow_target_time", "twinflow_negative_time"] if way == "training_only" else [])
    assert {name.split(".")[0] for name in parameters} == {*modules}
    assert all(parameter.requires_grad for parameter in parameters.values())


def test_frozen_assistant_adapter_is_refused(folder):
    model = host_model("sd3", folder)
    model.assistant_lora_loaded = True
    with pytest.raises(TwinFlowConfigError, match="assistant_lora_path"):
        family_model_for(model).attach_time_conditioning()


def test_sampler_asks_at_times_that_the_runs_dtype_can_hold(folder):
    plain, half = (
        family_model_for(host_model("sd3", folder, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.sampling_times == plain.sampling_times | {"time_dtype": "bfloat16"}
    assert type(plain.scheduler()) is TwinFlowScheduler
    for time in half.scheduler().step_times(4):
        assert torch.tensor(1000 * time).bfloat16().item() == pytest.approx(1000 * time, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "conditioned"),
    [
        ({"twinflow_target_step_count": 2}, True),
        ({"twinflow_target_step_count": 4}, True),
        ({"twinflow_target_step_count": 1}, False),
        ({"twinflow_target_step_count": 2, "twinflow_time_conditioning": "signed_time"}, False),
        (
            {
                "twinflow_target_step_count": 2,
                "twinflow_time_conditioning": "none",
                "twinflow_adversarial_enabled": False,
            },
            False,
        ),
    ],
    ids=str,
)
def test_sampler_draws_fresh_noise_unless_their_steps_are_conditioned(changes, conditioned, folder):
    family_model, steps = family_model_for(host_model("sd3", folder, **changes)), changes["twinflow_target_step_count"]
    assert family_model.steps_are_conditioned is conditioned
    fresh = not conditioned
    assert family_model.scheduler().settings.stochastic_ratio == float(fresh)
    assert family_model.stock_scheduler(steps).config.stochastic_sampling is fresh
    assert family_model.step_times[0] == 1.0


def test_sampler_of_an_epsilon_model_draws_fresh_noise_too(folder):
    family_model = family_model_for(diffusion.host_model("sdxl", folder, twinflow_target_step_count=2))
    assert family_model.steps_are_conditioned is False
    assert type(family_model.scheduler()) is TwinFlowDiffusionScheduler
    assert type(family_model.stock_scheduler(2)) is LCMScheduler  # whose every step but the last noises anew


@pytest.mark.parametrize("mode", ["training_only", "signed_time"])
def test_silence_beside_a_video_is_noised_to_its_time_and_said_to_be(mode, folder):
    """Silence is 0 in the host's latents of sound, so that t times its noise is left of it."""
    model = host_model("ltxvideo2", folder, twinflow_time_conditioning=mode)
    family_model, batch = family_model_of(model), host_batch(model)
    assert not batch["audio_latents"].any()
    there = family_model.at(batch, batch["noisy_latents"], T, R, SIGN)
    torch.testing.assert_close(there["audio_noisy_latents"], batch["audio_noise"] * T.reshape(-1, 1, 1, 1))
    time = T if mode == "training_only" else SIGN * (T - R / 2)
    torch.testing.assert_close(there["audio_timesteps"], 1000 * time)
    assert torch.equal(there["audio_timesteps"], there["timesteps"])
    own = family_model.at_own_times(batch)
    assert torch.equal(own["audio_timesteps"], own["timesteps"])


def test_sound_beside_a_video_is_not_trained_on_in_silence(folder):
    model = host_model("ltxvideo2", folder)
    family_model, batch = family_model_of(model), host_batch(model)
    batch |= {"audio_latent_batch": torch.zeros_like(batch["audio_latents"])}
    with pytest.raises(TwinFlowError, match="audio_latent_batch"):
        family_model.at(batch, batch["noisy_latents"], T, R, SIGN)


def test_rows_without_a_caption_are_those_that_guidance_has_nothing_to_do_for(folder):
    """As the host's own `collate` drops captions; between their two fields there is nothing."""
    model = host_model("sd3", folder)
    adapter, batch = family_model_of(model), host_batch(model, ("a", "", "c", ""))
    assert adapter.unprompted(batch) == (1, 3)
    predict, x, t = adapter.predict_with(batch), batch["noisy_latents"].float(), adapter.sigma(batch)
    own, empty = (predict(x, t, t, torch.ones(4), PromptRows((0, 1, 2, 3), at)) for at in (False, True))
    assert torch.equal(own[[1, 3]], empty[[1, 3]])
    assert not torch.equal(own[[0, 2]], empty[[0, 2]])
    assert adapter.unprompted({key: value for key, value in batch.items() if key != "prompts"}) == ()


def test_song_without_words_has_a_condition_all_the_same(folder):
    """Guidance leaves all of it out, so that there is something between its two fields."""
    model = host_model("ace_step", folder)
    assert family_model_of(model).unprompted({"prompts": ["", "b"]}) == ()
