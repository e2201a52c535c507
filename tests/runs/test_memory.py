"""The memory of a run, foretold from its files, against the bytes of the tensors that the run has."""

import json
from dataclasses import replace

import pytest

from simpletuner_twinflow.host.settings.examined import configured, examined
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.settings.memory import parts, peak, size, training_of
from simpletuner_twinflow.host.settings.network import network_of
from simpletuner_twinflow.options import TwinFlowOptions

KEPT = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "EMA": "ema",
    "the base's first weights": "base",
}
TENTH = 0.1


def read(run):
    config = json.loads((run.check().folder / "config/config.json").read_text(encoding="utf-8"))
    data = {"data_backend_config": str(run.folder / "config/data.json")}
    return {key.lstrip("-"): value for key, value in (config | data).items()}


def foretold(given):
    config = configured(given)
    options, _ = TwinFlowOptions.read({key: value for key, value in given.items() if key.startswith("twinflow_")})
    network = network_of(vars(config))
    training = training_of(settled(options, config.model_type), config, network)
    return parts(config.model_family, network, training), network, training


@pytest.mark.host_runs("remembered")
@pytest.mark.parametrize("index", range(4))
def test_each_part_is_what_the_run_keeps(index, runs):
    run = runs["remembered"][index]
    found, *_ = foretold(read(run))
    counted = run.of("memory")[-1]
    for part, name in KEPT.items():
        assert found.get(part, 0) == pytest.approx(counted[name], rel=TENTH), part


@pytest.mark.host_runs("remembered")
@pytest.mark.parametrize("index", range(4))
def test_activations_are_the_most_that_loss_and_backward_add(index, runs):
    run = runs["remembered"][index]
    found, *_ = foretold(read(run))
    added = found["activations"] + found.get("a pass without gradient", 0)
    assert added == pytest.approx(run.of("memory")[-1]["most"], rel=TENTH)


@pytest.mark.host_runs("remembered")
def test_doctor_says_it(runs):
    given = read(runs["remembered"].full)
    found, _, training = foretold(given)
    said = examined(given)["run"]["in all"]
    assert f"about {size(peak(found, accumulates=False))} at most" in said
    assert f"activations {size(found['activations'])}" in said
    assert training.tokens == 256 + 77 + 8


@pytest.mark.host_runs("remembered")
def test_shards_divide_what_is_kept_and_not_the_activations(runs):
    found, network, training = foretold(read(runs["remembered"].full))
    eighth = parts("sd3", network, replace(training, shards=8))
    for part in KEPT:
        assert eighth[part] == pytest.approx(found[part] / 8)
    assert eighth["activations"] == found["activations"]
    assert eighth["gathered blocks"] == 2 * 4 * network.parameters / network.blocks
