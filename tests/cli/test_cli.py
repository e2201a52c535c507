"""The command line as a program."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from simpletuner_twinflow.cli import main
from tests.cli.command import BASE, SIZE, THREE, sample


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x", "--steps", "9"], ["--steps", "9", "1 to 8"]),
        (["--prompt", "x", "--steps", "0"], ["--steps", "0", "1 to 8"]),
        (["--prompt", "x", "--seeds", "0"], ["--seeds", "above 0"]),
        ([], ["--prompt"]),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        sample(tmp_path, *arguments)
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_runs_as_a_program_without_the_host(tmp_path):
    code = "import sys; sys.modules['simpletuner'] = None; from simpletuner_twinflow.cli import main; sys.exit(main())"
    arguments = ["sample", "--pipeline", BASE, *SIZE, "--prompt", THREE, "--output", tmp_path]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"SIMPLETUNER_TWINFLOW_DISABLED": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "wrote 1 pictures" in result.stdout
    assert "1/1" in result.stderr  # the progress bar
    assert "Warning" not in result.stderr


def test_console_script_is_the_command_line():
    [script] = entry_points(group="console_scripts", name="simpletuner-twinflow")
    assert script.load() is main


def test_help_names_each_default_once(capsys):
    with pytest.raises(SystemExit) as end:
        main(["sample", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "sigma of the first step, above 0 up to 1 (default: 1; with fresh noise 0.999)" in text
    assert "None" not in text
