"""What an import of the package costs, and who imports whom outside of it; inside, see `importlinter` in pyproject."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "simpletuner_twinflow"
STRANGERS = {  # folder -> those whose code it does not import
    "simpletuner_twinflow": {"testbed", "demo", "benchmarks", "tests"},
    "testbed": {"demo", "benchmarks", "tests"},
    "demo": {"benchmarks", "tests"},
    "benchmarks": {"demo", "tests"},
    "tests": {"demo", "benchmarks"},
}


def imported_modules(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_importing_the_package_loads_neither_torch_nor_the_host():
    code = "import simpletuner_twinflow, sys; print(sorted({'torch', 'simpletuner', 'wrapt'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", STRANGERS)
def test_what_is_shared_stands_in_testbed_alone(folder):
    imported = {path: {name.split(".")[0] for name in imported_modules(path)} for path in (ROOT / folder).rglob("*.py")}
    assert imported
    assert {path: names & STRANGERS[folder] for path, names in imported.items() if names & STRANGERS[folder]} == {}


ELSEWHERE = {  # module -> where it is tested under another name
    "__main__": "cli/test_cli.py",
    "_hooks": "test_startup.py",
    "_startup": "test_startup.py",
    "_preflight": "host/settings/test_preflight.py",
    "assistants": "host/settings/test_families.py",
    "budget": "host/drawing/test_measure.py",
    "doctor": "host/test_doctor.py",
    "family": "host/settings/test_families.py",
    "features": "quality/test_measures.py",
    "full_weights": "runs/test_resume.py",
    "latents": "host/drawing/test_measure.py",
    "lycoris_file": "runs/test_lycoris.py",
    "quality": "host/training/test_logging.py",
    "sounding": "host/settings/test_families.py",
    "sources": "host/test_doctor.py",
}


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")}), ids=lambda path: path.name)
def test_every_module_has_a_test_of_its_name(folder):
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    tests = {path.stem.removeprefix("test_") for path in (TESTS / folder.relative_to(PACKAGE)).glob("test_*.py")}
    assert modules - tests <= ELSEWHERE.keys()
    assert all((TESTS / path).is_file() for path in ELSEWHERE.values())
