"""Entries of a LyCORIS configuration that TwinFlow cannot train with are named with file, entry and way out."""

import json

import pytest

from simpletuner_twinflow.host.settings.conflicts import conflicts
from simpletuner_twinflow.host.settings.lycoris_config import lycoris_problems
from simpletuner_twinflow.options import TwinFlowOptions

LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1}
NEEDS_BASE = [
    ({"dora_wd": True}, "dora_wd"),
    ({"apply_preset": {"module_algo_map": {"Attention": {"weight_decompose": True}}}}, "weight_decompose"),
    ({"algo": "dylora", "bypass_mode": True}, "bypass_mode"),
    ({"apply_preset": {"module_algo_map": {"FeedForward": {"algo": "dylora", "bypass_mode": True}}}}, "bypass_mode"),
    ({"algo": "diag-oft", "rescaled": True}, "rescaled"),
]


@pytest.fixture
def problems(tmp_path):
    """Those of the ordinary configuration with some changes, the file's name taken out."""

    def found(changes, *, needs_base=True):
        file = tmp_path / "lycoris.json"
        file.write_text(json.dumps(LOKR | changes), encoding="utf-8")
        lines = [*lycoris_problems(str(file), needs_base=needs_base)]
        assert all(line.startswith('lycoris_config is "') for line in lines)  # and a long path is shortened
        return lines

    return found


@pytest.mark.parametrize("changes", [{}, {"bypass_mode": True}, {"dropout": 0.0}, {"algo": "loha"}, {"dora_wd": False}])
def test_what_can_be_trained_has_none(changes, problems):
    assert problems(changes) == []


@pytest.mark.parametrize("key", ["dropout", "rank_dropout", "module_dropout"])
def test_dropout_is_refused(key, problems):
    [line] = problems({key: 0.1})
    assert f"{key} in it 0.1" in line
    assert f"Way out: set {key} to 0." in line


def test_rank_that_depends_on_the_time_is_refused(problems):
    assert '"tlora"' in problems({"algo": "tlora"})[0]


@pytest.mark.parametrize(("changes", "named"), NEEDS_BASE)
def test_network_that_cannot_be_switched_off_is_refused_where_guidance_needs_the_base(changes, named, problems):
    [line] = problems(changes)
    assert f"with {named}" in line
    assert 'twinflow_guidance_reference to "ema"' in line
    assert problems(changes, needs_base=False) == []


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read as JSON"), ("[]", "must hold a JSON object")])
def test_file_that_holds_something_else_is_named(text, said, tmp_path):
    file = tmp_path / "lycoris.json"
    file.write_text(text, encoding="utf-8")
    [line] = lycoris_problems(str(file), needs_base=False)
    assert said in line


def test_the_hosts_default_file_is_looked_at_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/lycoris_config.json").write_text(json.dumps(LOKR | {"dropout": 0.5}), encoding="utf-8")
    config = {"model_family": "sd3", "model_type": "lora", "use_ema": True, "lora_type": "lycoris"}
    [line] = conflicts(config, TwinFlowOptions(enabled=True, guidance_scale=1.0))
    assert "config/lycoris_config.json" in line


def test_start_up_and_doctor_see_them_for_a_lycoris_run_alone(tmp_path):
    file = tmp_path / "lycoris.json"
    file.write_text(json.dumps(LOKR | {"dora_wd": True, "dropout": 0.5}), encoding="utf-8")
    config = {"model_family": "sd3", "model_type": "lora", "use_ema": True, "lycoris_config": str(file)}
    guided, unguided = (TwinFlowOptions(enabled=True, guidance_scale=scale) for scale in (2.0, 1.0))
    assert len([*conflicts(config | {"lora_type": "lycoris"}, guided)]) == 2
    assert len([*conflicts(config | {"lora_type": "lycoris"}, unguided)]) == 1
    assert [*conflicts(config | {"lora_type": "standard"}, guided)] == []
