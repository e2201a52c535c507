"""Pipelines that step by themselves make the steps that are trained, and are called as the host cannot call them."""

import logging
from functools import wraps
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from simpletuner.helpers.models.zlab_i1.pipeline import ZlabI1Pipeline
from simpletuner.helpers.training.validation import Validation

from simpletuner_twinflow.host.drawing.own_steps import DataShares, arguments_of_steps
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_model
from testbed.host_models.oracle import named
from testbed.host_models.zoo import ZOO
from tests.host.families.test_sampling import draw

TWINFLOW = SimpleNamespace(twinflow_enabled=True, twinflow_implementation="paper")
NOTES = {"prompt_embeds": 1, "_validation_prompt_text": "a cat", "_validation_negative_prompt_text": ""}


@pytest.fixture(autouse=True)
def each_in_folder(in_folder):
    """The host looks for files that a config names in the working directory."""


def asked(model):
    """The time t of each pass while the model's pipeline draws, with the network's own target time if it has one."""
    tiny, real, found = model.tiny, model.model.forward, []
    time = tiny.drawn_time or tiny.time

    @wraps(real)
    def forward(*args, **kwargs):
        given = named(real, args, kwargs)
        target = given[tiny.own_target_time].flatten()[0].item() if tiny.own_target_time else None
        found.append((time(given[tiny.timestep].flatten()[:1].float()).item(), target))
        return real(*args, **kwargs)

    with patch.object(model.model, "forward", forward):
        draw(model)
    return found


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("family", ["zlab_i1", "ideogram", "anima", "flux3_image klein"])
def test_pipeline_makes_the_steps_that_are_trained(family, steps, folder):
    model = host_model(family, folder, twinflow_target_step_count=steps)
    adapter = family_model_of(model)
    times, targets = zip(*asked(model), strict=True)
    assert times == pytest.approx(adapter.step_times, abs=1e-6)
    assert adapter.step_times[0] == 1
    if ZOO[family].own_target_time:
        assert targets == pytest.approx((*adapter.step_times[1:], 0.0), abs=1e-6)


def test_even_steps_are_those_of_the_even_pipeline_and_others_are_not(folder):
    even, spaced = (
        family_model_of(host_model(family, folder, twinflow_target_step_count=4)).step_times
        for family in ("zlab_i1", "ideogram")
    )
    assert even == pytest.approx((1, 0.75, 0.5, 0.25))
    assert spaced != pytest.approx(even, abs=0.05)


def test_shares_of_the_data_rise_from_noise_to_data_over_the_places():
    schedule = DataShares((1.0, 0.6, 0.25, 0.0))
    places = torch.linspace(0, 1, 4)
    torch.testing.assert_close(schedule(places), torch.tensor([1.0, 0.75, 0.4, 0.0]))
    assert schedule(places[3:]).dtype == torch.float32


SEEDS = [({"validation_seed": 7}, 7), ({}, 1), ({"validation_randomize": True}, None)]


@pytest.mark.parametrize(("changes", "seed"), SEEDS)
def test_seed_of_the_run_reaches_the_pipeline_that_knows_no_generator(changes, seed, folder):
    model = host_model("ideogram", folder, **changes)
    model.pipeline = object()
    assert arguments_of_steps(model, 2).get("seed") == seed
    assert arguments_of_steps(host_model("zlab_i1", folder), 2) == {}


def filtered(enabled):
    pipeline = ZlabI1Pipeline.__new__(ZlabI1Pipeline)
    validation = Validation.__new__(Validation)
    validation.config = SimpleNamespace(**vars(TWINFLOW) | {"twinflow_enabled": enabled})
    return validation._filter_pipeline_kwargs_for_call(pipeline, dict(NOTES))


def test_notes_of_the_host_are_kept_from_a_pipeline_that_takes_any_argument(caplog):
    assert filtered(enabled=False) == NOTES  # with which i1's raises
    with caplog.at_level(logging.INFO, "simpletuner_twinflow"):
        assert filtered(enabled=True) == {"prompt_embeds": 1}
    assert "Mending SimpleTuner: ZlabI1Pipeline is not given _validation_prompt_text" in caplog.text
