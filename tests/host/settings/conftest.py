"""What these tests share."""

import json

import pytest
from simpletuner.helpers.training.state_tracker import StateTracker

LYCORIS = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1}


@pytest.fixture
def configuration_folder(tmp_path, monkeypatch):
    """Where the host looks for the files that a config names."""
    (tmp_path / "lycoris.json").write_text(json.dumps(LYCORIS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StateTracker, "config_path", str(tmp_path))
