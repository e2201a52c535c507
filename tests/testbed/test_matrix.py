"""The rows of the matrix of hosts."""

import json
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from testbed import matrix

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", matrix.ROWS)
def test_row_holds_to_what_the_constraints_say_but_for_what_it_sets_itself(name):
    row = matrix.ROWS[name]
    left_out = {line.partition("==")[0] for line in LINES} - {
        line.partition("==")[0] for line in matrix.constrained(row, LINES)
    }
    named = {Requirement(each).name for each in row.companions}
    of_host = {"diffusers", "accelerate", "peft"} if row.host == matrix.NEWEST else set()
    assert left_out == {"simpletuner"} | named | of_host


def test_oldest_diffusers_that_the_host_admits_has_a_row():
    [asked] = [found for each in requires("simpletuner") if (found := Requirement(each)).name == "diffusers"]
    [oldest] = [each.version for each in asked.specifier if each.operator == ">="]
    assert f"diffusers-{oldest}" in matrix.ROWS


def test_line_of_the_page_says_what_was_seen():
    result = matrix.Result("4.10.1", "3.13.0", "diffusers 0.40.0", 7, ["test_one", "test_two"], [])
    assert "| 4.10.1 | 3.13.0 | diffusers 0.40.0 | 7 | test_one<br>test_two | none |" in matrix.render([result])


def test_rows_that_were_not_asked_for_keep_their_lines(tmp_path, monkeypatch):
    found = {"4.10.1": ("4.10.1", "3.12.1"), "python-3.13": ("4.10.1", "3.13.0"), "4.9.3": ("4.9.3", "3.12.1")}
    results = {name: matrix.Result(*both, "", 9, [], []) for name, both in found.items()}
    for constant in ("RESULTS", "PAGE", "ENVIRONMENTS"):
        monkeypatch.setattr(matrix, constant, tmp_path / constant)
    monkeypatch.setattr(matrix, "tried", lambda name: results[name])
    for names in (["4.10.1", "python-3.13"], ["4.9.3"]):
        monkeypatch.setattr("sys.argv", ["matrix", *names])
        assert matrix.main() == 0
    lines = [line for line in matrix.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| 4")]
    assert [line.split("|")[1:3] for line in lines] == [
        [" 4.9.3 ", " 3.12.1 "],
        [" 4.10.1 ", " 3.12.1 "],
        [" 4.10.1 ", " 3.13.0 "],
    ]
    assert set(json.loads(matrix.RESULTS.read_text(encoding="utf-8"))) == set(found)
