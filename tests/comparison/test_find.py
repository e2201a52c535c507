"""Which runs a path leads to."""

from pathlib import Path

import pytest

from simpletuner_twinflow.comparison.find import find_runs, short_names
from simpletuner_twinflow.errors import TwinFlowConfigError
from tests.comparison.folders import PLAIN, first, write_run

ID = "0123456789abcdef"


def wandb_folder(root: Path, time: str, name: str = ID) -> Path:
    folder = root / f"wandb/offline-run-20260102_{time}-{name}"
    folder.mkdir(parents=True)
    (folder / f"run-{name}.wandb").touch()
    return folder


def test_output_folder_run_folder_and_its_wandb_are_one_run(tmp_path):
    output = write_run(tmp_path / "a/output", [first(1, 1)], PLAIN)
    (output / ".wandb_run_id").write_text(f"{ID}\n", encoding="utf-8")
    late, early = wandb_folder(tmp_path / "a", "020000"), wandb_folder(tmp_path / "a", "010000")
    for given in (output, tmp_path / "a"):
        [run] = find_runs([given])
        assert run.output == output
        assert run.wandb == [early, late]  # a resumed run keeps its id
    [run] = find_runs([early, tmp_path / "a", output, late / f"run-{ID}.wandb"])
    assert (run.output, run.wandb) == (output, [early, late])


def test_wandb_runs_of_other_ids_are_other_runs(tmp_path):
    one, other = wandb_folder(tmp_path, "010000"), wandb_folder(tmp_path, "020000", "fedcba9876543210")
    assert [run.wandb for run in find_runs([tmp_path])] == [[one], [other]]
    assert [run.wandb for run in find_runs([tmp_path / "wandb"])] == [[one], [other]]


def test_output_folder_without_the_id_is_not_joined_with_a_stranger(tmp_path):
    output = write_run(tmp_path / "output", [first(1, 1)])
    wandb_folder(tmp_path, "010000")
    [run] = find_runs([output])
    assert run.wandb == []
    assert len(find_runs([tmp_path])) == 2


def test_copy_of_an_output_folder_is_a_run_of_its_own(tmp_path):
    outputs = [write_run(tmp_path / name, [first(1, 1)]) for name in ("output", "output-b")]
    for output in outputs:
        (output / ".wandb_run_id").write_text(ID, encoding="utf-8")
    (tmp_path / "link").symlink_to(outputs[0])
    runs = find_runs([*outputs, tmp_path / "link"])
    assert [run.output for run in runs] == outputs
    assert len({*short_names([run.given for run in runs])}) == 2
    for run, other in zip(runs, reversed(outputs), strict=True):
        [note] = run.notes
        assert f"{other}: a copy" in note
    assert find_runs([outputs[0]])[0].notes == []


def test_config_file_leads_to_an_output_folder_of_any_name(tmp_path):
    write_run(tmp_path / "out/here", [first(1, 1)])
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text('{"output_dir": "out/here"}', encoding="utf-8")
    [run] = find_runs([tmp_path])
    assert run.output == tmp_path / "out/here"


def test_all_paths_without_a_run_are_named_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    write_run(tmp_path / "good", [first(1, 1)])
    with pytest.raises(TwinFlowConfigError) as error:
        find_runs([tmp_path / name for name in ("empty", "good", "file", "missing")])
    assert len(error.value.problems) == 3
    for name, problem in zip(("empty", "file", "missing"), error.value.problems, strict=True):
        assert problem.startswith(f"{tmp_path / name}: ")


def test_a_folder_that_may_not_be_read_is_a_problem_like_others(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(TwinFlowConfigError, match="Permission denied"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/r/a/output", "/r/b/output"], ["a", "b"]),
        (["/r/a/output"], ["a"]),
        (["/x/demo/output", "/y/demo/output"], ["x/demo", "y/demo"]),
        (["/r/a", "/r/a"], ["a (1)", "a (2)"]),
        (["/r/a/wandb/offline-run-20260102_030405-abcdefgh", "/r/b"], ["a", "b"]),
        (
            ["/r/wandb/offline-run-20260102_030405-abcdefgh", "/r/wandb/offline-run-20260102_030405-12345678"],
            ["r abcdef", "r 123456"],
        ),
        (["/r/проба", "/r/試験"], ["проба", "試験"]),
        (["/a", "/b/a"], ["a", "b/a"]),
    ],
)
def test_names_are_short_and_unique(paths, names):
    assert short_names([Path(path) for path in paths]) == names
