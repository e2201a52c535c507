"""Shards that are cut off or missing are named without being loaded, as torch's own writer leaves them otherwise."""

import json

import pytest
import torch
import torch.distributed.checkpoint as dcp

from simpletuner_twinflow.host.checkpoints.files import MANIFEST, damage
from simpletuner_twinflow.host.checkpoints.shards import INDEX

# torch says so of one process, which is what writes here.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
PARTS = ("model", "optimizer")
SHARD = "__0_0.distcp"


@pytest.fixture(params=["listed", "not listed"])
def checkpoint(tmp_path, request):
    """Two folders of shards, with the host's list of files and without."""
    for part in PARTS:
        dcp.save({"a": torch.arange(64.0), "b": torch.ones(8, 8)}, checkpoint_id=tmp_path / part)
    if request.param == "listed":
        names = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()]
        (tmp_path / MANIFEST).write_text(json.dumps({"files": names}))
    return tmp_path


def test_whole_shards_have_no_damage(checkpoint):
    assert [(checkpoint / part / name).exists() for part in PARTS for name in (SHARD, INDEX)] == [True] * 4
    assert damage(checkpoint) is None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [SHARD, INDEX])
@pytest.mark.parametrize(
    "left", [lambda size: 0, lambda size: size // 2, lambda size: size - 1], ids=["0", "half", "-1"]
)
def test_shard_or_index_cut_off_is_named(left, name, part, checkpoint):
    file = checkpoint / part / name
    content = file.read_bytes()
    file.write_bytes(content[: left(len(content))])
    assert damage(checkpoint).startswith(f"{file} is damaged (")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_shard_or_index_that_is_not_there_is_missing(name, part, checkpoint):
    (checkpoint / part / name).unlink()
    assert damage(checkpoint) == f"{checkpoint / part / name} is missing"
