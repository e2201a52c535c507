"""The benchmark for a GPU, on the CPU: that it runs, and counts what it should."""

import json
import subprocess
import sys

import pytest


def test_every_way_trains_and_takes_the_passes_foretold(tmp_path):
    command = ["-m", "benchmarks.gpu", "--tiny", "--networks", "SANA-1.6B, 1024 px", "--output", str(tmp_path)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    assert [row["model_type"] for row in rows] == ["lora"] * 6 + ["full"] * 6
    for row in rows:
        backward = {"lora": 1, "full": 2}[row["model_type"]]
        assert (row["passes_a_row"] == 0) is (row["way"] == "plain")
        assert row["foretold"] == pytest.approx(1 + row["passes_a_row"] / (1 + backward), rel=0.15), row["way"]
    assert len((tmp_path / "gpu.md").read_text(encoding="utf-8").splitlines()) == 4 + len(rows)
