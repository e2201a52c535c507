"""What the host logs of a step gets TwinFlow's terms, and its error of a loss that is not finite names them."""

import json
from types import SimpleNamespace

import pytest
import torch

from simpletuner_twinflow.host.drawing.measure import QualityMeasure
from simpletuner_twinflow.host.settings.budget import ONE_PICTURE
from simpletuner_twinflow.host.training.logging import MAX_CHARTS, chart_is_due
from simpletuner_twinflow.host.training.wandb_chart import CHART_KEY
from testbed.host_models.trainer import training_step


@pytest.fixture
def logged(trainer, batch, monkeypatch):
    """What reaches the trackers after one step, with trackers of these names."""
    found = []

    def begin(*names):
        trainer._trackers_initialized = False
        trainer.accelerator.log_with = [*names]
        monkeypatch.setattr(trainer.accelerator, "trackers", [SimpleNamespace(name=name) for name in names])
        monkeypatch.setattr(trainer.accelerator, "init_trackers", lambda *args, **kwargs: None)
        monkeypatch.setattr(
            trainer.accelerator, "log", lambda values, step=None, **_: found.append((step, dict(values)))
        )
        for name in ("accelerator_project_config", "process_group_kwargs", "webhook_config"):
            setattr(trainer.config, name, None)
        trainer.init_trackers()
        training_step(trainer, batch, 0)
        return found

    return begin


def test_step_is_logged_with_its_terms_and_other_values_as_they_come(logged, trainer):
    found = logged("tensorboard")
    trainer.accelerator.log({"train_loss": 1.0}, step=1)
    trainer.accelerator.log({"eval_loss": 2.0}, step=1)
    means = trainer.distiller.meter.means(trainer.accelerator)
    assert found == [
        (1, {"train_loss": 1.0} | {f"twinflow/{name}": mean for name, mean in means.items()}),
        (1, {"eval_loss": 2.0}),
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_data_of_one_picture_are_said_to_be_at_the_start(count, logged, trainer, tmp_path, caplog):
    (tmp_path / "pictures").mkdir()
    for number in range(count):
        (tmp_path / f"pictures/{number}.png").touch()
    datasets = [{"id": "mine", "type": "local", "instance_data_dir": str(tmp_path / "pictures")}]
    (tmp_path / "data.json").write_text(json.dumps(datasets), encoding="utf-8")
    trainer.config.data_backend_config = str(tmp_path / "data.json")
    trainer.distiller.options = trainer.distiller.options.changed(quality_interval=1)
    logged("tensorboard")
    assert caplog.messages.count(ONE_PICTURE) == (count == 1)


def test_chart_follows_the_values_on_wandb_alone(logged, trainer):
    found = logged("wandb")
    trainer.accelerator.log({"train_loss": 1.0}, step=1)
    assert [CHART_KEY in values for _, values in found] == [False, True]
    assert len(found[1][1][CHART_KEY].table.data) == 4


def test_terms_are_read_without_trackers_too_for_the_progress_line(logged, trainer):
    logged()
    assert trainer.distiller.meter.last == {}
    trainer.accelerator.log({"train_loss": 1.0}, step=1)
    assert trainer.distiller.meter.last == trainer.distiller.meter.means(trainer.accelerator) != {}


@pytest.mark.parametrize(("message", "noted"), [("Non-finite loss", 1), ("CUDA error", 0)])
def test_error_of_a_loss_that_is_not_finite_names_the_terms_and_others_are_left_alone(
    message, noted, trainer, batch, monkeypatch
):
    training_step(trainer, batch, 0)
    trainer.distiller.meter._terms[0]["rcgm"].total.fill_(torch.nan)

    def fail(*args, **kwargs):
        raise RuntimeError(message)

    trainer._trackers_initialized = True
    monkeypatch.setattr(trainer, "_train_initial_msg", fail)  # the first that `train` calls after the trackers
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    assert getattr(error.value, "__notes__", []) == ["simpletuner-twinflow: twinflow/rcgm is nan."] * noted


def due(interval, max_steps):
    return [step for step in range(1, max_steps + 1) if chart_is_due(step, interval, max_steps)]


@pytest.mark.parametrize("interval", [1, 7, 500, 100_000])
@pytest.mark.parametrize("max_steps", [1, 399, 400, 401, 100_000])
def test_run_of_any_length_has_a_chart_and_no_more_than_the_bound(interval, max_steps):
    """The first step's is one more than the bound where that step is not one of the interval's."""
    charts = due(interval, max_steps)
    assert charts[0] == 1
    assert len(charts) <= MAX_CHARTS + 1


@pytest.mark.parametrize("interval", [7, 500])
def test_thinned_charts_are_at_multiples_of_the_interval_asked_for(interval):
    assert all(step % interval == 0 for step in due(interval, 100_000)[1:])


def test_chart_interval_is_kept_where_it_is_long_enough():
    assert due(500, 10_000) == [1, *range(500, 10_001, 500)]


def test_chart_interval_zero_means_no_chart():
    assert due(0, 100) == []


@pytest.mark.parametrize("part", ["values", "fields", "sheet"])
def test_what_a_measure_of_quality_raises_is_said_since_the_host_drops_it(part, logged, trainer, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no sample")

    monkeypatch.setattr(QualityMeasure, "values", lambda _: {"ema_1_mmd": 1.0})
    monkeypatch.setattr(QualityMeasure, "fields", lambda _: {})
    monkeypatch.setattr(QualityMeasure, part, broken)
    trainer.distiller.options = trainer.distiller.options.changed(quality_samples=8, quality_interval=1)
    trainer.config.max_train_steps = 4
    logged("tensorboard")
    with pytest.raises(RuntimeError, match="no sample"):
        trainer.accelerator.log({"train_loss": 1.0}, step=1)
    assert "could not measure the quality of few-step samples at step 1" in caplog.text
