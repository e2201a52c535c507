"""The host's auxiliary losses in TwinFlow runs: the host's own numbers on the rows of data, and no others."""

import math

import pytest
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open

from tests.runs.harness import ROOT
from tests.runs.terms import ALL_TERMS

pytestmark = pytest.mark.host_runs("auxiliary")
CREPA, LAYERSYNC = "aux_loss/crepa_loss", "aux_loss/layersync_loss"


def test_what_is_added_to_twinflows_terms_is_the_hosts_own_loss_on_the_rows_of_data(runs):
    run = runs["auxiliary"]["TwinFlow"].check()
    steps = run.of("auxiliary")
    assert len(steps) == 3
    for step, log in zip(steps, run.step_logs(), strict=True):
        assert "twin" in step["roles"]
        assert step["added"] == pytest.approx(step["of_data"], abs=1e-6)
        assert abs(step["of_all"] - step["of_data"]) > 1e-4
        assert log[CREPA] + log[LAYERSYNC] == pytest.approx(step["of_data"], abs=1e-6)


def test_a_step_of_twin_rows_alone_has_none_of_them_and_logs_none(runs):
    run = runs["auxiliary"]["alone"].check()
    steps = [*zip(run.of("auxiliary"), run.step_logs(), strict=True)]
    twins = [(step, log) for step, log in steps if step["roles"] == ["twin"]]
    assert 0 < len(twins) < len(steps)
    for step, log in twins:
        assert step["added"] == 0
        assert not [key for key in log if key.startswith("aux_loss/")]


def test_they_are_logged_as_in_a_plain_run_beside_twinflows_terms(runs):
    logged = {name: runs["auxiliary"][name].check().step_logs() for name in ("plain", "TwinFlow", "full")}
    for name, keys in {"plain": {CREPA, LAYERSYNC}, "TwinFlow": {CREPA, LAYERSYNC}, "full": {LAYERSYNC}}.items():
        for step in logged[name]:
            assert {key for key in step if key.startswith("aux_loss/") and key.endswith("_loss")} == keys
            assert name == "plain" or step.keys() >= ALL_TERMS
            assert all(math.isfinite(step[key]) for key in keys)
    assert "SimpleTuner's crepa, layersync on the rows of data" in runs["auxiliary"]["TwinFlow"].log


def test_the_exported_adapter_is_a_plain_runs_without_the_projector_and_stock_diffusers_draws_with_it(runs):
    def shapes(name):
        with safe_open(runs["auxiliary"][name].output / "pytorch_lora_weights.safetensors", "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118

    plain = shapes("plain")
    assert any("crepa_projector" in key for key in plain)  # with which stock diffusers refuses the file
    assert shapes("TwinFlow") == {key: shape for key, shape in plain.items() if "crepa_projector" not in key}
    pipe = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")
    pipe.load_lora_weights(runs["auxiliary"]["TwinFlow"].output)
    assert pipe.get_active_adapters()


def test_a_checkpoint_whose_projector_is_narrower_than_the_rank_resumes(runs):
    resumed = runs["auxiliary"]["resumed"].check()
    assert len(resumed.step_logs()) == 1  # the fourth
