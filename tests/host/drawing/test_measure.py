"""Few-step quality while training: what is drawn is what the exported model draws, and training does not notice."""

import copy
import math

import pytest
import torch

from simpletuner_twinflow.host.drawing.latents import KeptRows, few_step_samples, many_step_samples, prompts_of
from simpletuner_twinflow.host.drawing.measure import QualityMeasure
from simpletuner_twinflow.host.drawing.quality import as_text
from simpletuner_twinflow.host.settings.budget import SHARE
from simpletuner_twinflow.host.training.diffusion_model import family_model_for
from testbed.host_models import diffusion, flow
from testbed.host_models.trainer import host_trainer, training_step

PLAIN = {"twinflow_enhanced_ratio": 0.0, "twinflow_adversarial_enabled": False}
KINDS = ("mmd", "mmd_in_errors", "diversity")


def measure_of(trainer, batch, rows=8, quality_interval=1):
    trainer.distiller.options = trainer.distiller.options.changed(
        quality_samples=rows, quality_interval=quality_interval
    )
    measure = QualityMeasure(trainer)
    while not measure.rows.complete:
        measure.rows.add(batch)
    return measure


def stirred(model):
    """Time conditioning as after some training: every weight of it is other than zero."""
    torch.manual_seed(3)
    for parameter in model.time_conditioning_parameters().values():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def called_plainly(model, batch, x, t):
    """The network's velocity as a pipeline calls it: without target time and sign."""
    there = model.at(batch, x, t, torch.zeros_like(t), torch.ones_like(t))
    plain = {key: value for key, value in there.items() if not key.startswith("twinflow_")}
    return model.velocity(model.model.model_predict(prepared_batch=plain), plain)


def test_rows_are_copies_of_the_first_that_come(batch):
    rows = KeptRows(6)
    first = batch["latents"].clone()
    rows.add(batch)
    assert (rows.count, rows.complete) == (4, False)
    batch["latents"].zero_()
    rows.add(batch)
    rows.add(batch)
    assert (rows.count, rows.complete) == (6, True)
    assert [len(kept["latents"]) for kept in rows.batches] == [4, 2]
    assert torch.equal(rows.batches[0]["latents"], first)
    assert len(prompts_of(rows.batches)) == 6


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("target", [1, 2, 4])
@torch.no_grad()
def test_samples_are_those_of_the_runs_scheduler_around_the_plain_network(target, count, make_trainer, batch):
    trainer = make_trainer(twinflow_target_step_count=target, **PLAIN)
    model = stirred(trainer.distiller.family_model)
    scheduler = model.scheduler()
    scheduler.set_timesteps(count)
    drawn, noises = few_step_samples(model, count, batch, seed=7), torch.Generator().manual_seed(7)
    x = torch.randn(batch["latents"].shape, generator=noises)
    for step, time in enumerate(scheduler.timesteps):
        t = torch.full((len(x),), float(scheduler.sigmas[step]))
        assert float(time) == pytest.approx(1000 * float(t[0]))
        x = scheduler.step(called_plainly(model, batch, x, t), time, x, generator=noises, return_dict=False)[0]
    torch.testing.assert_close(drawn, x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_many_steps_follow_the_guided_ode(make_trainer):
    trainer = make_trainer(**PLAIN | {"twinflow_enhanced_ratio": 0.5})
    model, batch = stirred(trainer.distiller.family_model), flow.host_batch(trainer.model)
    drawn = many_step_samples(model, 2, 3.0, batch, seed=7)
    predict = model.predict_with(batch)
    x = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(7))
    for t in (1.0, 0.5):
        time = torch.full((len(x),), t)
        prompted, empty = (
            predict(x, time, time, torch.ones_like(time), prompt)
            for prompt in (rows(len(x)), rows(len(x), unconditional=True))
        )
        x = x - 0.5 * (empty + 3 * (prompted - empty))
    torch.testing.assert_close(drawn, x)


def rows(count, **more):
    from simpletuner_twinflow.method.batch import PromptRows

    return PromptRows(tuple(range(count)), **more)


@pytest.mark.parametrize("target", [1, 2])
def test_before_training_student_ema_and_base_draw_alike(target, make_trainer, batch):
    trainer = make_trainer(twinflow_target_step_count=target, **PLAIN)
    found = measure_of(trainer, batch).values()
    whos = {name.split("/")[0] for name in found}
    assert whos == {"base_20", f"base_{target}", *(f"{who}_{n}" for who in ("ema", "student") for n in (1, 2, 4))}
    for kind in KINDS:
        assert found[f"ema_{target}/{kind}"] == found[f"student_{target}/{kind}"]
        assert found[f"ema_{target}/{kind}"] == pytest.approx(found[f"base_{target}/{kind}"], rel=1e-3)
        assert all(math.isfinite(found[f"{who}/{kind}"]) for who in whos)


def test_training_does_not_notice_a_measure(make_trainer, batch):
    def trained(measured):
        torch.manual_seed(0)
        trainer = make_trainer(lora_dropout=0.0)
        measure = measure_of(trainer, copy.deepcopy(batch))
        losses = []
        for step in range(3):
            losses.append(float(training_step(trainer, batch, step)))
            if measured:
                modes = [module.training for module in trainer.model.model.modules()]
                assert measure.values() == measure.values()
                assert [module.training for module in trainer.model.model.modules()] == modes
        return losses, [parameter.clone() for parameter in trainer._get_trainable_parameters()], torch.rand(3)

    (first, weights, after), (other, same, drawn) = trained(True), trained(False)
    assert first == other
    assert all(map(torch.equal, weights, same))
    assert torch.equal(after, drawn)


def test_with_guidance_the_distance_to_the_guided_base_is_given_too(make_trainer):
    trainer = make_trainer()
    found = measure_of(trainer, flow.host_batch(trainer.model)).values()
    name = "mmd_to_guided_base_in_errors"
    assert f"base_20/{name}" not in found  # it is the guided base
    assert math.isfinite(found[f"base_1/{name}"])
    assert math.isfinite(found[f"ema_1/{name}"])
    assert f"to the guided base {found[f'ema_1/{name}']:.1f}" in as_text(found, 8, 3)


def test_nothing_is_measured_before_enough_rows_were_seen(make_trainer, batch):
    measure = measure_of(make_trainer(), batch)
    measure.rows.count = 7
    assert measure.values() == {}


def test_epsilon_models_are_measured(folder, in_folder):
    model = diffusion.host_model("sdxl", folder, twinflow_target_step_count=2, train_batch_size=4)
    trainer = host_trainer(model)
    batch = diffusion.host_batch(model, "sdxl", rows=4)
    found = measure_of(trainer, batch).values()
    assert all(map(math.isfinite, found.values()))
    assert {"ema_1/mmd", "ema_4/mmd"} <= found.keys()
    assert few_step_samples(family_model_for(model), 2, batch, 0).shape == batch["latents"].shape


LONG = {"max_train_steps": 1_000_000}


@pytest.mark.parametrize(("validation", "rows"), [(100, 64), (10, 8), (1000, 256)])
def test_automatic_interval_is_the_fewest_validations_within_the_share(validation, rows, make_trainer, batch):
    trainer = make_trainer(validation_step_interval=validation, **LONG)
    measure = measure_of(trainer, batch, rows, quality_interval=0)
    share = measure.budget.of_measure() / (measure.budget.of_step() * measure.interval)
    assert measure.interval % validation == 0
    assert share <= SHARE
    assert measure.interval == validation or share * measure.interval / (measure.interval - validation) > SHARE
    assert f"every {measure.interval} steps" in measure.described()
    trainer.distiller.options = trainer.distiller.options.changed(quality_interval=7)
    assert QualityMeasure(trainer).interval == 7


@pytest.mark.parametrize(
    ("of_measure", "of_base", "measured", "base"),
    [(0.99, 0, False, False), (1.01, 0, True, False), (1.01, 0.95, True, False), (1.01, 1.05, True, True)],
)
def test_short_run_measures_what_the_share_of_its_work_allows(of_measure, of_base, measured, base, make_trainer, batch):
    measure = measure_of(make_trainer(**LONG), batch, 8, quality_interval=0)
    work = of_measure * measure.budget.of_measure() + of_base * measure.budget.of_base()
    steps = math.ceil(work / (SHARE * measure.budget.of_step()))
    short = measure_of(make_trainer(max_train_steps=steps), batch, 8, quality_interval=0)
    assert (short.interval > 0, short._base is not None) == (measured, base)
    assert ("does not measure" in short.described()) is not measured
    assert ("once the base" in short.described()) is base
