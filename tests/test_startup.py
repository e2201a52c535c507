"""The start-up file in a real environment: from a wheel, editable, registered twice, switched off, removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = [sys.executable, "-m", "uv"]
START_UP_FILES = {"simpletuner_twinflow.pth", "simpletuner_twinflow.start"}
PROBES = Path(__file__).parent / "start_up"  # programs for an environment of their own; each prints what it finds

pytestmark = pytest.mark.host


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(*UV, "build", "--quiet", "--out-dir", folder, ROOT)
    assert list(folder.glob("simpletuner_twinflow-*.tar.gz")), "no sdist"
    return next(folder.glob("simpletuner_twinflow-*.whl"))


@pytest.fixture
def bare(tmp_path) -> Path:
    """The Python of an environment with wrapt alone: neither torch nor the host."""
    run(*UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    python = tmp_path / "env/bin/python"
    run(*UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", "wrapt")
    return python


def install(python: Path, *what: str | Path) -> None:
    run(*UV, "pip", "install", "--quiet", "--no-deps", "--python", python, *what)


def site_packages(python: Path) -> Path:
    return next(python.parents[1].glob("lib/python*/site-packages"))


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installed_start_up_file_registers_one_finder_and_imports_nothing(how, bare, wheel):
    before = {path.name for path in site_packages(bare).iterdir()}
    install(bare, *([wheel] if how == "wheel" else ["--editable", ROOT]))
    assert {path.name for path in site_packages(bare).iterdir()} >= START_UP_FILES
    assert run(bare, PROBES / "count_finders.py") == "1 []"

    run(*UV, "pip", "uninstall", "--quiet", "--python", bare, "simpletuner-twinflow")
    left = {path.name for path in site_packages(bare).iterdir()} - before
    assert left == set()
    assert run(bare, PROBES / "count_finders.py") == "0 []"


def test_registering_twice_leaves_one_finder(bare, wheel):
    install(bare, wheel)
    assert run(bare, PROBES / "count_finders.py", "register", "twice") == "1 []"


@pytest.mark.parametrize(("value", "finders"), [("1", "0"), ("0", "1"), ("", "1")])
def test_environment_variable_switches_the_plugin_off(value, finders, bare, wheel):
    install(bare, wheel)
    assert run(bare, PROBES / "count_finders.py", SIMPLETUNER_TWINFLOW_DISABLED=value) == f"{finders} []"


def test_start_file_names_a_callable_that_the_pth_file_calls_too():
    start = (ROOT / "startup/simpletuner_twinflow.start").read_text(encoding="utf-8").strip()
    module, _, function = start.partition(":")
    pth = (ROOT / "startup/simpletuner_twinflow.pth").read_text(encoding="utf-8").strip()
    assert pth == f"import {module}; {module}.{function}()"
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_start_up_costs_under_two_milliseconds(bare, wheel, record_property):
    install(bare, wheel)
    # -S keeps site from running the file before the clock does; site itself loads os, and bytecode is kept, as usual.
    measure = ("-S", PROBES / "time_start_up.py", site_packages(bare))
    costs = sorted(float(run(bare, *measure, PYTHONDONTWRITEBYTECODE="")) for _ in range(15))
    print(f"start-up: median {1000 * costs[7]:.2f} ms, least {1000 * costs[0]:.2f} ms")
    assert costs[7] < 0.002


def test_waking_up_registers_every_hook_of_pyproject_once(bare, wheel, tmp_path):
    """With a stand-in host package; the real one is driven in tests/host."""
    install(bare, wheel)
    (tmp_path / "simpletuner.py").touch()
    assert run(bare, PROBES / "wake_up.py", PYTHONPATH=str(tmp_path)) == "True False"
