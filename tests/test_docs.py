"""What the pages point at is there."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
CODE = re.compile(r"`([\w/.]+\.py)(?:: (\w+))?`")  # `folder/file.py` or `folder/file.py: name`
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@pages
def test_relative_links_lead_to_files(page):
    assert [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()] == []


@pages
def test_files_and_functions_that_are_named_exist(page):
    assert [found for found in CODE.findall(page.read_text(encoding="utf-8")) if not exists(*found)] == []


def test_the_tables_of_memory_are_what_the_function_says():
    script = runpy.run_path(str(ROOT / "docs/generate_scaling.py"))
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert script["page"](text) == text, "run: python docs/generate_scaling.py"


def exists(path, name):
    """Whether a file lies at this path, from the project, its package or the method; and defines the name, if any."""
    folders = (ROOT, ROOT / "simpletuner_twinflow", ROOT / "simpletuner_twinflow/method")
    file = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if file is None or not name:
        return file is not None
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
