"""The host's auxiliary losses in TwinFlow runs: the host's own numbers on the rows of data, and no others."""

import math

import pytest

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


def test_they_are_logged_as_in_a_plain_run_beside_twinflows_terms(runs):
    logged = {name: runs["auxiliary"][name].check().step_logs() for name in ("plain", "TwinFlow", "full")}
    for name, keys in {"plain": {CREPA, LAYERSYNC}, "TwinFlow": {CREPA, LAYERSYNC}, "full": {LAYERSYNC}}.items():
        for step in logged[name]:
            assert {key for key in step if key.startswith("aux_loss/") and key.endswith("_loss")} == keys
            assert name == "plain" or step.keys() >= ALL_TERMS
            assert all(math.isfinite(step[key]) for key in keys)
    assert "SimpleTuner's crepa, layersync on the rows of data" in runs["auxiliary"]["TwinFlow"].log


def test_the_exported_adapter_is_a_plain_runs(runs):
    from safetensors import safe_open

    def shapes(name):
        with safe_open(runs["auxiliary"][name].output / "pytorch_lora_weights.safetensors", "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118

    assert shapes("TwinFlow") == shapes("plain")
