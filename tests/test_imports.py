"""The import direction: the core knows no host, and `host` is the only package that does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "simpletuner_twinflow"


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def core_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "host" not in path.relative_to(PACKAGE).parts)


@pytest.mark.parametrize("path", core_files(), ids=lambda path: path.stem)
def test_core_imports_neither_the_host_nor_our_host_package(path):
    for name in imported_modules(path):
        assert name.split(".")[0] != "simpletuner", f"{path.name} imports {name}"
        assert not name.startswith("simpletuner_twinflow.host"), f"{path.name} imports {name}"


def test_wandb_is_imported_by_the_logger_alone():
    users = {path.name for path in PACKAGE.rglob("*.py") if "wandb" in imported_modules(path)}
    assert users == {"wandb_chart.py"}


def test_importing_the_package_loads_neither_torch_nor_the_host():
    code = "import simpletuner_twinflow, sys; print(sorted({'torch', 'simpletuner', 'wrapt'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


ROOT = PACKAGE.parent
STRANGERS = {  # folder -> those whose code it does not import
    "simpletuner_twinflow": {"testbed", "demo", "benchmarks", "tests"},
    "testbed": {"demo", "benchmarks", "tests"},
    "demo": {"benchmarks", "tests"},
    "benchmarks": {"demo", "tests"},
    "tests": {"demo", "benchmarks"},
}


@pytest.mark.parametrize("folder", STRANGERS)
def test_what_is_shared_stands_in_testbed_alone(folder):
    imported = {path: {name.split(".")[0] for name in imported_modules(path)} for path in (ROOT / folder).rglob("*.py")}
    assert imported
    assert {path: names & STRANGERS[folder] for path, names in imported.items() if names & STRANGERS[folder]} == {}


@pytest.mark.parametrize("room", ["training", "checkpoints", "drawing"])
def test_every_host_module_has_a_test_of_its_name(room):
    modules = {path.stem for path in (PACKAGE / "host" / room).glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/host" / room).glob("test_*.py")}
    assert modules - tests == set()
