"""The first frame that Cosmos 3's super-i2v is given without noise: the same in each pass, and no part of the loss."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.host.drawing.latents import few_step_samples, many_step_samples
from simpletuner_twinflow.host.training.distiller import ROWS
from simpletuner_twinflow.host.training.first_frame import COUNTED, PICTURE, frame_weights, with_first_frame
from simpletuner_twinflow.method.losses import squared_error
from simpletuner_twinflow.method.objective import ObjectiveSettings, PromptRows
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import PROMPTS, host_batch, host_model
from testbed.host_models.oracle import install, named
from testbed.host_models.trainer import host_trainer
from testbed.pipelines.cosmos3 import CHANNELS
from tests.host.steps import losses_of

FRAMES, EDGE = 3, 4  # of the latents
PIXEL_FRAMES = 9

pytestmark = pytest.mark.usefixtures("in_folder")


def pictures(rows):
    """One of each sample, unlike its film's own first frame."""
    return torch.arange(1.0, rows + 1).reshape(-1, 1, 1, 1).expand(-1, CHANNELS, EDGE, EDGE)


def model_of(folder, **changes):
    flavour = {"model_flavour": "super-i2v", "validation_num_video_frames": PIXEL_FRAMES}
    made = host_model("cosmos3", folder, **flavour | changes)
    read = replace(made.tiny.text["cosmos3_reasoner_cache"], frames=PIXEL_FRAMES)
    made.tiny = replace(
        made.tiny,
        latents=(CHANNELS, FRAMES, EDGE, EDGE),
        text={"cosmos3_reasoner_cache": read},
        conditions=lambda rows: {PICTURE: pictures(rows), "is_i2v_data": True},
    )
    return made


@pytest.fixture
def model(folder):
    return model_of(folder)


def received(model, run):
    """What the network is given of each sample in a run: its latents and the times of what is noised."""
    calls, real = [], model.model.forward

    def forward(*args, **kwargs):
        given = named(real, args, kwargs)
        calls.append((given["vision_tokens"][0][0], given["vision_timesteps"]))
        return real(*args, **kwargs)

    with patch.object(model.model, "forward", forward), torch.no_grad():
        run()
    return calls


def test_first_frame_is_the_picture_and_has_no_time_and_the_others_are_as_ever(model):
    adapter, batch = family_model_of(model), host_batch(model)
    t = torch.tensor([1.0, 0.7, 0.5, 0.3])
    there = adapter.at(batch, batch["noise"], t, t / 2, torch.ones_like(t))
    calls = received(model, lambda: model.model_predict(prepared_batch=dict(there)))
    for row, (latents, times) in enumerate(calls):
        assert (latents[:, 0] == row + 1).all()
        torch.testing.assert_close(latents[:, 1:], batch["noise"][row, :, 1:])
        torch.testing.assert_close(times, (1000 * t[row]).expand((FRAMES - 1) * (EDGE // 2) ** 2))


def test_passes_on_some_rows_are_given_the_pictures_of_these_rows(model):
    adapter, batch, rows = family_model_of(model), host_batch(model), (3, 1, 1)
    passes, t = adapter.predict_with(batch), torch.full((3,), 0.6)
    for empty in (False, True):
        prompts = PromptRows(rows, unconditional=empty)
        calls = received(
            model, lambda prompts=prompts: passes(batch["noise"][list(rows)], t, t, torch.ones(3), prompts)
        )
        assert [latents[:, 0].unique().tolist() for latents, _ in calls] == [[row + 1] for row in rows]


@pytest.mark.parametrize("ratio", [0.0, 0.5], ids=["no guidance", "guidance"])
def test_exact_network_has_no_loss_whatever_the_picture(ratio, model):
    adapter, batch = family_model_of(model), host_batch(model, PROMPTS * 2, latent=0.6)
    install(model.model, model.tiny, prompted=(0.6 + 0.4 * ratio) / (1 - ratio), unprompted=-0.4)
    options = ObjectiveSettings(adversarial_enabled=True, enhanced_ratio=ratio, guidance_reference="ema")
    losses = losses_of(adapter, batch, options, weights=frame_weights(batch))
    assert len(losses.terms) == 4
    for name, term in losses.terms.items():
        assert term.total.item() / term.rows < 1e-6, name


def test_loss_of_the_ordinary_velocity_is_the_hosts_masked_one(model):
    adapter, batch = family_model_of(model), host_batch(model)
    t = adapter.sigma(batch)
    there = adapter.at(batch, batch["noisy_latents"], t, t, torch.ones_like(t))
    output = model.model_predict(prepared_batch=there)
    error = squared_error(adapter.velocity(output, there), batch["noise"] - batch["latents"], frame_weights(batch))
    torch.testing.assert_close(error.mean(), model.loss(there, output))


def test_losses_of_a_run_count_the_other_frames_alone(folder):
    """Roles of one kind, whose term is the plain velocity."""
    near = {"twinflow_role_shares": {"near": 1}, "twinflow_adversarial_enabled": False, "twinflow_enhanced_ratio": 0.0}
    model = model_of(folder, **near)
    trainer = host_trainer(model)
    prepared = trainer.distiller.prepare_batch(host_batch(model), model, {"global_step": 0})
    loss, *_ = trainer.distiller.training_loss(prepared)
    output = model.model_predict(prepared_batch=dict(prepared))["model_prediction"].float()
    expected = (output - prepared[ROWS].velocity)[:, :, 1:].square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(loss, expected.mean())


def test_samples_drawn_in_memory_begin_with_the_picture(model):
    adapter, batch = family_model_of(model), host_batch(model)
    for drawn in (few_step_samples(adapter, 2, batch, 1), many_step_samples(adapter, 2, 1.0, batch, 1)):
        torch.testing.assert_close(drawn[:, :, 0], pictures(len(drawn)))
        assert not torch.allclose(drawn[:, :, 1], drawn[:, :, 0])


def test_batch_of_pictures_has_nothing_to_train(model):
    adapter, batch = family_model_of(model), host_batch(model)
    single = batch | {key: batch[key][:, :, :1] for key in ("latents", "noisy_latents", COUNTED)}
    with pytest.raises(TwinFlowError, match=r"nothing to train.*more than one frame"):
        adapter.at_own_times(single)


def test_batch_without_a_first_frame_is_left_as_it_is():
    x = torch.zeros(2, 4, 3, 4, 4)
    assert with_first_frame({"latents": x}, x) is x
    assert frame_weights({"latents": x, COUNTED: None}) is None
