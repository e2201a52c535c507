"""What LTX-Video 2 is given of a video without noise: the same in each pass on a row, and no part of the loss."""

from unittest.mock import patch

import pytest
import torch

from simpletuner_twinflow.host.training.distiller import ROWS
from simpletuner_twinflow.host.training.given_frames import GIVEN, with_given_frames
from simpletuner_twinflow.method.losses import squared_error
from simpletuner_twinflow.method.objective import (
    ObjectiveSettings,
    PromptRows,
)
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import PROMPTS, host_batch, host_model
from testbed.host_models.oracle import install, named
from testbed.host_models.trainer import host_trainer
from testbed.host_models.zoo import ZOO
from tests.host.steps import losses_of

FAMILY, FRAMES, EDGE = "ltxvideo2", 2, 2  # of the zoo's latents
TOKENS = EDGE * EDGE  # of a frame
ALWAYS = {
    "first frame": ({"type": "first_frame"}, [0, 1, 2, 3]),
    "prefix": ({"type": "prefix", "temporal_boundary": 1}, [0, 1, 2, 3]),
    "suffix": ({"type": "suffix", "temporal_boundary": 1}, [4, 5, 6, 7]),
    "crop": ({"type": "spatial_crop", "spatial_region": [0, 0, 1, 2]}, [0, 1, 4, 5]),
}
# Roles of one kind, whose term is the plain velocity.
NEAR = {
    "twinflow_role_shares": {"near": 1},
    "twinflow_adversarial_enabled": False,
    "twinflow_enhanced_ratio": 0.0,
}
SOME = [spec | {"probability": 0.5} for spec, _ in ALWAYS.values()]

pytestmark = pytest.mark.usefixtures("in_folder")


def model_given(folder, specs, **changes):
    return host_model(FAMILY, folder, ltx2_intrinsic_conditioning=specs, **changes)


def received(model, run):
    """What the network is given in each pass of a run: tokens of the video and their times."""
    calls, real = [], model.model.forward

    def forward(*args, **kwargs):
        given = named(real, args, kwargs)
        calls.append((given["hidden_states"], given["timestep"]))
        return real(*args, **kwargs)

    with patch.object(model.model, "forward", forward), torch.no_grad():
        run()
    return calls


@pytest.mark.parametrize("kind", ALWAYS)
def test_given_tokens_are_the_datas_own_at_time_zero_and_the_others_as_ever(kind, folder):
    spec, places = ALWAYS[kind]
    model = model_given(folder, [spec])
    adapter = family_model_of(model)
    batch = with_given_frames(model, host_batch(model), seed=1)
    t = torch.tensor([1.0, 0.7, 0.5, 0.3])
    there = adapter.at(batch, batch["noise"], t, t / 2, torch.ones_like(t)) | {"latents": batch["noise"] + 5}
    ((tokens, times),) = received(model, lambda: model.model_predict(prepared_batch=dict(there)))
    others = [place for place in range(FRAMES * TOKENS) if place not in places]
    data, noise = (batch[name].flatten(2).transpose(1, 2) for name in ("latents", "noise"))
    torch.testing.assert_close(tokens[:, places], data[:, places])
    torch.testing.assert_close(tokens[:, others], noise[:, others])
    assert not times[:, places].any()
    torch.testing.assert_close(times[:, others], 1000 * t.unsqueeze(1).expand(-1, len(others)))


def test_passes_on_some_rows_are_given_what_these_rows_are(folder):
    """Though the host would draw anew in each pass."""
    model = model_given(folder, SOME)
    adapter = family_model_of(model)
    batch = with_given_frames(model, host_batch(model, PROMPTS * 2), seed=1)
    mask = batch[GIVEN]["mask"]
    assert len({tuple(row.tolist()) for row in mask}) > 1, "the samples are given different things"
    passes, rows = adapter.predict_with(batch), (6, 1, 1)
    t = torch.full((3,), 0.6)
    x = batch["noise"][list(rows)]
    calls = received(
        model,
        lambda: [passes(x, t, t, torch.ones(3), PromptRows(rows, unconditional=empty)) for empty in (False, True)],
    )
    for _, times in calls:
        assert torch.equal(times == 0, mask[list(rows)])


@pytest.mark.parametrize("ratio", [0.0, 0.5], ids=["no guidance", "guidance"])
def test_exact_network_has_no_loss_whatever_it_is_given(ratio, folder):
    model = model_given(folder, SOME)
    adapter = family_model_of(model)
    batch = with_given_frames(model, host_batch(model, PROMPTS * 2, latent=0.6), seed=1)
    assert batch[GIVEN]["mask"].any()
    install(model.model, ZOO[FAMILY], prompted=(0.6 + 0.4 * ratio) / (1 - ratio), unprompted=-0.4)
    options = ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=ratio, guidance_reference="ema")
    losses = losses_of(adapter, batch, options, weights=batch[GIVEN]["weights"])
    assert len(losses.terms) == 4
    for name, term in losses.terms.items():
        assert term.total.item() / term.rows < 1e-6, name


def test_loss_of_the_ordinary_velocity_is_the_hosts_masked_one(folder):
    model = model_given(folder, SOME)
    adapter = family_model_of(model)
    batch = with_given_frames(model, host_batch(model, PROMPTS * 2), seed=1)
    t = adapter.sigma(batch)
    prepared = adapter.at(batch, batch["noisy_latents"], t, t, torch.ones_like(t))
    output = model.model_predict(prepared_batch=prepared)  # which notes the host's mask in the batch
    assert torch.equal(prepared["video_loss_mask"], ~batch[GIVEN]["mask"])
    ours = squared_error(
        adapter.velocity(output, prepared), batch["noise"] - batch["latents"], batch[GIVEN]["weights"]
    ).mean()
    torch.testing.assert_close(ours, model.loss(prepared, output))


def test_pass_of_a_batch_without_given_frames_is_given_none(folder):
    """So are those of evaluation, whose loss could not know of them, and of samples that are drawn in memory."""
    model = model_given(folder, [ALWAYS["first frame"][0]])
    adapter = family_model_of(model)
    batch = host_batch(model)
    there = adapter.at_own_times(batch)
    ((_, times),) = received(model, lambda: model.model_predict(prepared_batch=dict(there)))
    assert times.all()


def test_host_alone_draws_what_is_given_in_each_pass(folder):
    model = model_given(folder, SOME, twinflow_enabled=False)
    batch = host_batch(model)
    calls = received(model, lambda: [model.model_predict(prepared_batch=dict(batch)) for _ in range(4)])
    assert len({tuple((times == 0).flatten().tolist()) for _, times in calls}) > 1


def test_step_of_a_run_counts_only_what_is_not_given_and_leaves_the_random_stream(folder):
    """With everything given but one frame, the loss is that frame's."""
    model = model_given(folder, [ALWAYS["prefix"][0]], **NEAR)
    trainer = host_trainer(model)
    batch, state = host_batch(model), torch.get_rng_state()
    prepared = trainer.distiller.prepare_batch(batch, model, {"global_step": 0})
    assert torch.equal(torch.get_rng_state(), state)
    assert GIVEN not in batch
    assert prepared[GIVEN]["mask"][:, :TOKENS].all()
    loss, *_ = trainer.distiller.training_loss(prepared)
    output = model.model_predict(prepared_batch=dict(prepared))["model_prediction"].float()
    rows = prepared[ROWS]
    expected = (output - rows.velocity)[:, :, 1:].square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(loss, expected.mean())
