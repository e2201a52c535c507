"""The benchmark for a GPU, on the CPU: that it runs, and counts what it should."""

import pytest
import torch

from benchmarks import gpu


def test_every_way_trains_and_takes_the_passes_foretold():
    rows = gpu.measured("SANA-1.6B, 1024 px", "lora", 8, torch.device("cpu"), tiny=True)
    ways = {row["way"]: row for row in rows}
    assert list(ways) == list(gpu.WAYS)
    assert ways["plain"]["passes_a_row"] == 0
    assert ways["plain"]["foretold"] == 1
    for row in rows[1:]:
        assert row["foretold"] == pytest.approx(1 + row["passes_a_row"] / 2, rel=0.15), row["way"]
