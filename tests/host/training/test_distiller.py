"""The distiller in the host's trainer: roles given once, the same loss whenever it is asked, nothing left."""

import pytest
import torch

from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from simpletuner_twinflow.host.training.distiller import ROWS, STREAM
from simpletuner_twinflow.method.roles import Role
from testbed.host_models import diffusion, flow
from testbed.host_models.trainer import host_trainer, training_step

TERMS = {"rcgm", "real_velocity", "adversarial", "rectify"}


@pytest.fixture
def trainer(make_trainer):
    """A window of four rows has each role once."""
    return make_trainer(twinflow_role_shares=dict.fromkeys(("one_step", "near", "any_step", "twin"), 1))


@pytest.fixture
def distiller(trainer):
    return trainer.distiller


@pytest.fixture
def prepared(distiller, batch, trainer):
    return distiller.prepare_batch(batch, trainer.model, {"global_step": 0})


def test_each_window_of_four_rows_has_each_role_once(prepared):
    assert sorted(map(str, prepared[ROWS].roles)) == ["any_step", "near", "one_step", "twin"]


def test_prepared_batch_asks_for_the_rows_points_and_times(prepared, distiller):
    rows = prepared[ROWS]
    torch.testing.assert_close(prepared["noisy_latents"], rows.x_t)
    torch.testing.assert_close(distiller.family_model.sigma(prepared), rows.t)
    assert torch.equal(prepared["twinflow_target_time"], rows.r)
    assert torch.equal(prepared["twinflow_sign"] < 0, torch.tensor([role is Role.twin for role in rows.roles]))


def test_preparing_leaves_the_hosts_batch_and_the_random_stream(distiller, batch, trainer):
    before, state = dict(batch), torch.get_rng_state()
    distiller.prepare_batch(batch, trainer.model, {"global_step": 0})
    assert batch.keys() == before.keys()
    assert all(batch[key] is value for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_embeddings_are_put_beside_the_latents_before_any_pass(distiller, batch, trainer, monkeypatch):
    """What that does to a batch needs two devices, and is shown in test_batches."""
    module = "simpletuner_twinflow.host.training.distiller"
    monkeypatch.setattr(f"{module}.on_latents_device", lambda batch: dict(batch) | {"put": True})
    assert distiller.prepare_batch(batch, trainer.model, {"global_step": 0})["put"]


def test_loss_is_the_same_when_asked_twice_and_the_terms_count_once(distiller, prepared, trainer):
    first = distiller.training_loss(prepared)[0]
    means = distiller.meter.means(trainer.accelerator)
    assert torch.equal(distiller.training_loss(prepared)[0], first)
    assert distiller.meter.means(trainer.accelerator) == means
    assert means.keys() == TERMS | {"clamped", "sign_separation"}
    assert first.dtype == torch.float32


def test_roles_and_random_numbers_are_those_of_step_and_micro_batch(make_trainer, batch):
    """As a resumed run comes to them, whatever the global stream has been used for."""
    one, other = make_trainer(), make_trainer()
    for step in (0, 1, 2):
        first = one.distiller.prepare_batch(batch, one.model, {"global_step": step})
    torch.rand(17)
    resumed = other.distiller.prepare_batch(batch, other.model, {"global_step": 2})
    assert resumed[STREAM] == first[STREAM]
    assert resumed[ROWS].roles == first[ROWS].roles
    assert torch.equal(resumed[ROWS].t, first[ROWS].t)
    next_micro_batch = other.distiller.prepare_batch(batch, other.model, {"global_step": 2})
    assert next_micro_batch[STREAM][0] != resumed[STREAM][0]
    assert next_micro_batch[STREAM][1] == 1


def test_evaluating_leaves_the_batch_and_asks_the_network_for_the_velocity(distiller, batch, trainer):
    asked, predict = [], trainer.model.model_predict

    def model_predict(prepared_batch, *args, **kwargs):
        asked.append(prepared_batch)
        return predict(prepared_batch, *args, **kwargs)

    trainer.model.model_predict = model_predict
    with distiller.evaluating():
        assert distiller.prepare_batch(batch, trainer.model, {"global_step": 0}) is batch
        trainer.model.model_predict(batch)
    assert trainer.model.model_predict is model_predict
    [given] = asked
    assert torch.equal(given["twinflow_target_time"], distiller.family_model.sigma(batch))  # r = t
    assert (given["twinflow_sign"] == 1).all()
    assert ROWS in distiller.prepare_batch(batch, trainer.model, {"global_step": 0})


def test_evaluating_ends_with_an_error_too(distiller, batch, trainer):
    predict = trainer.model.model_predict

    with pytest.raises(KeyError), distiller.evaluating():
        raise KeyError
    assert trainer.model.model_predict == predict
    assert ROWS in distiller.prepare_batch(batch, trainer.model, {"global_step": 0})


def test_teacher_is_the_ema_and_the_students_weights_are_back(make_trainer, batch):
    trainer = make_trainer(twinflow_target_clamp=100.0)  # so that no target of the random network is at the clamp
    distiller = trainer.distiller
    prepared = distiller.prepare_batch(batch, trainer.model, {"global_step": 0})
    loss = distiller.training_loss(prepared)[0]
    weights = [weight.detach().clone() for weight in trainer._get_trainable_parameters()]
    for shadow in trainer.ema_model.shadow_params:
        shadow.add_(0.05)
    assert not torch.equal(distiller.training_loss(prepared)[0], loss)
    assert all(map(torch.equal, weights, trainer._get_trainable_parameters()))


def test_without_ema_the_student_teaches(make_trainer, batch):
    """At the first step the EMA is the student: both runs have one loss."""
    losses = [
        training_step(make_trainer(use_ema=use, twinflow_require_ema=use), batch, step=0) for use in (True, False)
    ]
    assert torch.equal(*losses)


def test_distillers_sampler_is_the_family_models(distiller):
    assert type(distiller.get_scheduler()).__name__ == "TwinFlowScheduler"
    assert distiller.supports_special_scheduler_validation()


def asked(trainer, batch, windows):
    """The (t, r) of each role's rows in the first windows of four rows, with repetitions."""
    pairs = {role: [] for role in Role}
    for step in range(windows):
        rows = trainer.distiller.prepare_batch(batch, trainer.model, {"global_step": step})[ROWS]
        for role, t, r in zip(rows.roles, rows.t.tolist(), rows.r.tolist(), strict=True):
            pairs[role].append((t, r))
    return pairs


def test_each_step_of_a_conditioned_sampler_has_rows_and_jumps_start_in_noise(make_trainer, batch):
    """Its target time is the sampler's next time."""
    pairs = asked(make_trainer(twinflow_target_step_count=2), batch, windows=8)
    assert {*pairs[Role.sampler_step]} == {(1.0, 0.5), (0.5, 0.0)}
    assert {*pairs[Role.one_step]} == {(1.0, 0.0)}


UNCONDITIONED = {
    "signed_time": {"twinflow_time_conditioning": "signed_time"},
    "none": {"twinflow_time_conditioning": "none", "twinflow_adversarial_enabled": False},
    "sdxl": {},
}


@pytest.mark.parametrize("way", UNCONDITIONED)
def test_rows_jump_to_the_data_from_all_times_where_steps_are_not_conditioned(way, folder, in_folder):
    changes = {"twinflow_target_step_count": 2, "train_batch_size": 4} | UNCONDITIONED[way]
    module = diffusion if way == "sdxl" else flow
    model = module.host_model("sdxl" if way == "sdxl" else "sd3", folder, **changes)
    batch = diffusion.host_batch(model, "sdxl", rows=4) if way == "sdxl" else flow.host_batch(model)
    pairs = asked(host_trainer(model), batch, windows=40)
    scheduler = family_model_for(model).scheduler()
    times = {time for steps in (1, 2, 4) for time in scheduler.step_times(steps)}
    assert pairs[Role.sampler_step] == []
    assert {t for t, _ in pairs[Role.one_step]} == {*torch.tensor(list(times)).tolist()}
    assert {r for _, r in pairs[Role.one_step]} == {0.0}
    assert len(pairs[Role.one_step]) >= 8
