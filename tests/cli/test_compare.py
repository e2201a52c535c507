"""`simpletuner-twinflow compare` as a command."""

import json
import subprocess
import sys

import pytest

from simpletuner_twinflow.cli import main
from tests.comparison.folders import PLAIN, TWINFLOW, first, quality, record, write_picture, write_run


@pytest.fixture
def runs(tmp_path):
    records = [first(1, 1), record(2, 2), quality(2, 3, ema_1__mmd_in_errors=4.0, ema_1__diversity=0.9)]
    twinflow = write_run(tmp_path / "few/output", [*records, record(3, 4)], TWINFLOW)
    plain = write_run(tmp_path / "plain/output", [first(1, 1), record(2, 2)], PLAIN)
    for output in (twinflow, plain):
        write_picture(output / "validation_images/step_2_a_0_64x64.png")
    return [str(twinflow), str(plain)]


def test_page_pngs_and_table(runs, tmp_path, capsys):
    folder = tmp_path / "new/page"
    assert main(["compare", *runs, "--output", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "compare.html",
        "quality-mmd-in-errors.png",
        "quality-diversity.png",
        "losses.png",
        "pictures-1.png",
    }
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["run", "mode", "K", "steps", "time", "best", "in", "1"]
    assert said[1].split() == ["few", "TwinFlow", "2", "3", "4", "s", "4.0", "at", "2"]
    assert said[2].split() == ["plain", "plain", "-", "2", "2", "s", "-"]
    assert "plain: few-step quality not measured: plain run." in said
    assert said[-1] == f"page  {folder / 'compare.html'}"


def test_reader_that_goes_away_ends_it_without_a_traceback(runs, tmp_path):
    command = [sys.executable, "-m", "simpletuner_twinflow.cli", "compare", *runs, "--output", str(tmp_path / "page")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert "Broken" not in said, said
    assert process.returncode == 141


def test_bases_figure_and_both_distances_stand_beside_the_best(tmp_path, capsys):
    far = {"base_2__mmd_in_errors": 18.3, "base_2__mmd_to_guided_base_in_errors": 0.9, "ema_1__mmd_in_errors": 4.0}
    own = {"ema_2__mmd_in_errors": 1.8, "ema_2__mmd_to_guided_base_in_errors": 8.2}
    guided = write_run(tmp_path / "guided", [first(1, 1), quality(2, 3, **far, **own)], TWINFLOW)
    assert main(["compare", str(guided), "--output", str(tmp_path / "page")]) == 0
    _, run, data, *_ = capsys.readouterr().out.splitlines()
    assert run.split()[-8:] == ["4.0", "at", "2", "8.2", "(base", "0.9)", "at", "2"]
    assert data.split() == ["to", "the", "data", "-", "1.8", "(base", "18.3)"]
    assert (
        "8.2 (base 0.9) to the guided base; 1.8 (base 18.3) to the data" in (tmp_path / "page/compare.html").read_text()
    )
    assert main(["compare", str(guided), "--json", "--output", str(tmp_path / "page")]) == 0
    [found] = json.loads(capsys.readouterr().out)["runs"]
    assert {key: found["best"]["2"][key] for key in ("value", "base", "to_data", "base_to_data")} == {
        "value": 8.2,
        "base": 0.9,
        "to_data": 1.8,
        "base_to_data": 18.3,
    }


def test_json_has_the_figures_and_no_nan(runs, tmp_path, capsys):
    assert main(["compare", *runs, "--json", "--output", str(tmp_path / "page")]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    few, plain = found["runs"]
    nothing = {"base": None, "to_data": None, "base_to_data": None}
    assert few["best"] == {"1": {"figure": "mmd_in_errors", "value": 4.0, "step": 2, "seconds": 2.0} | nothing}
    assert (few["target_step_count"], few["weights"], few["seconds_per_step"]) == (2, "ema", 1.0)
    assert (plain["mode"], plain["best"]) == ("plain", {})


def test_all_wrong_paths_are_said_at_once_and_nothing_is_written(runs, tmp_path, capsys):
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert main(["compare", str(missing), runs[0], str(empty), "--output", str(tmp_path / "page")]) == 1
    said = capsys.readouterr().err
    assert f"{missing}: no such file" in said
    assert f"{empty}: no run in it" in said
    assert not (tmp_path / "page").exists()


def test_an_output_that_is_a_file_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "page").touch()
    assert main(["compare", runs[0], "--output", str(tmp_path / "page")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "page") in line


def test_output_folders_alone_need_neither_the_host_nor_wandb(runs, tmp_path):
    code = (
        "import sys; sys.modules['simpletuner'] = sys.modules['wandb'] = None; "
        "from simpletuner_twinflow.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "compare", *runs, "--output", str(tmp_path / "page")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from simpletuner_twinflow.cli import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'matplotlib', 'jinja2', 'PIL', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_without_matplotlib_the_way_out_is_named(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", *runs, "--output", str(tmp_path / "page")]) == 1
    assert "simpletuner-twinflow[compare]" in capsys.readouterr().err
