"""What the pages point at is there."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from simpletuner_twinflow.method.roles import Role

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")])
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


def test_the_page_of_errors_is_what_the_sources_say():
    script = runpy.run_path(str(ROOT / "docs/generate_errors.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["render"](), "run: python docs/generate_errors.py"


def test_the_picture_of_the_time_axis_is_what_the_code_says():
    script = runpy.run_path(str(ROOT / "docs/generate_time_axis.py"))
    picture = script["PICTURE"].read_text(encoding="utf-8")
    assert picture == script["render"](), "run: python docs/generate_time_axis.py"
    assert [role for role in Role if f">{role}<" not in picture] == []


TRANSLATED = {"README.zh-CN.md": "README.md", "docs/zh/first-run.md": "docs/first-run.md"}
BLOCK = re.compile(r"^```.*?^```$|(?:^ {4}[^\n]*\n)+", re.MULTILINE | re.DOTALL)  # fenced, or indented by four


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_same_code_figures_and_headings(page):
    here, there = ((ROOT / name).read_text(encoding="utf-8") for name in (page, TRANSLATED[page]))
    assert BLOCK.findall(here) == BLOCK.findall(there) != []
    rows = [
        [re.findall(r"[\d.]+", row) for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)] for text in (here, there)
    ]
    assert rows[0] == rows[1]
    assert len(re.findall(r"^## ", here, re.MULTILINE)) == len(re.findall(r"^## ", there, re.MULTILINE))


def test_the_readme_in_chinese_leads_to_the_same_pages():
    here, there = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.zh-CN.md", "README.md"))
    own = {"README.md", "README.zh-CN.md", "docs/zh/first-run.md", "docs/zh/options.md", "docs/zh/troubleshooting.md"}
    own |= {"docs/options.md", "docs/troubleshooting.md"}
    assert set(LINK.findall(here)) - own == set(LINK.findall(there)) - own


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_page_and_its_translation_link_each_other(page):
    for one, other in ((page, TRANSLATED[page]), (TRANSLATED[page], page)):
        text = (ROOT / one).read_text(encoding="utf-8")
        linked = {((ROOT / one).parent / link).resolve() for link in LINK.findall(text)}
        assert (ROOT / other).resolve() in linked, one


def exists(path, name):
    """Whether a file lies at this path, from the project, its package or the method; and defines the name, if any."""
    folders = (ROOT, ROOT / "simpletuner_twinflow", ROOT / "simpletuner_twinflow/method")
    file = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if file is None or not name:
        return file is not None
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
