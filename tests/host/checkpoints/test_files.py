"""Damage to a checkpoint's files is found without loading them, by file and kind, and a whole checkpoint has none."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from simpletuner_twinflow.host.checkpoints.files import GUARD, MANIFEST, STATE, damage, is_finished

FILES = {
    "adapter.safetensors": lambda file: save_file({"a": torch.zeros(64)}, file),
    "optimizer.bin": lambda file: torch.save({"a": torch.zeros(64)}, file),
    "random_states_0.pkl": lambda file: torch.save((1, 2), file),
    STATE: lambda file: file.write_text(json.dumps({"global_step": 4})),
}


@pytest.fixture(params=["listed", "not listed"])
def checkpoint(tmp_path, request):
    """A whole checkpoint, with the host's list of its files and without."""
    for name, write in FILES.items():
        write(tmp_path / name)
    if request.param == "listed":
        (tmp_path / MANIFEST).write_text(json.dumps({"files": [*FILES]}))
    return tmp_path


def test_whole_checkpoint_has_no_damage(checkpoint):
    assert damage(checkpoint) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "left", [lambda size: 0, lambda size: size // 2, lambda size: size - 1], ids=["0", "half", "-1"]
)
def test_file_cut_off_is_named(left, name, checkpoint):
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: left(len(content))])
    assert damage(checkpoint).startswith(f"{checkpoint / name} is damaged (")


@pytest.mark.parametrize("name", FILES)
def test_file_that_the_host_lists_and_that_is_not_there_is_missing(name, checkpoint):
    (checkpoint / name).unlink()
    listed = (checkpoint / MANIFEST).exists()
    assert damage(checkpoint) == (f"{checkpoint / name} is missing" if listed else None)


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"global_step": null}', '{"global_step": "4"}'])
def test_state_without_a_step_is_damaged(content, checkpoint):
    (checkpoint / STATE).write_text(content)
    assert "it has no global_step" in damage(checkpoint)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"files": null}', '{"files": "adapter"}', '{"files": [1]}', "{"]
)
def test_list_of_files_that_is_none_is_damaged(content, checkpoint):
    (checkpoint / MANIFEST).write_text(content)
    assert f"{checkpoint / MANIFEST} is damaged" in damage(checkpoint)


def test_pickle_of_older_torch_and_files_of_other_kinds_pass(checkpoint):
    (checkpoint / "random_states_0.pkl").write_bytes(pickle.dumps([1, 2]))
    (checkpoint / "README.md").write_bytes(b"\xff")
    assert damage(checkpoint) is None


def test_checkpoint_is_finished_once_the_hosts_guard_is_there(tmp_path):
    assert not is_finished(tmp_path)
    (tmp_path / GUARD).touch()
    assert is_finished(tmp_path)
