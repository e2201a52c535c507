"""What the pages point at is there."""

import ast
import json
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
    text = page.read_text(encoding="utf-8")
    named = [
        found for found in CODE.findall(text) if f"`{found[0]}`:\n\n```" not in text
    ]  # the page itself shows those
    assert [found for found in named if not exists(*found)] == []


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
PAIRS = TRANSLATED | {f"docs/zh/{name}.md": f"docs/{name}.md" for name in ("recipes", "options", "troubleshooting")}
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
    own |= {"docs/first-run.md", "docs/options.md", "docs/troubleshooting.md", "docs/recipes.md", "docs/zh/recipes.md"}
    assert set(LINK.findall(here)) - own == set(LINK.findall(there)) - own


def test_the_recipes_in_chinese_have_the_configs_and_their_numbers():
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/zh/recipes.md", "docs/recipes.md")]
    rows = [re.findall(r"^\| \[([\w.-]+)\]\((.*?)\) \| (.*)$", page, re.MULTILINE) for page in pages]
    assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
    folder = ROOT / "sample_configs"
    assert {row[0] for row in rows[0]} == {path.name for path in folder.glob("*.json")} - {"cpu-demo.json"}
    for name, path, rest in rows[0]:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        rank = f"\uff0c秩 {config['lora_rank']}" if "lora_rank" in config else ""
        assert path.endswith(f"/sample_configs/{name}")
        assert [cell.strip() for cell in rest.split("|")][:3] == [
            {"lora": "LoRA", "full": "全量"}[config["model_type"]] + rank,
            str(config["twinflow_target_step_count"]),
            f"{config['learning_rate']:g}",
        ]
    tables = [re.findall(r"^\| (?!\[)(.*)$", page, re.MULTILINE) for page in pages]
    assert [re.findall(r"[\d.]+", row) for row in tables[0]] == [re.findall(r"[\d.]+", row) for row in tables[1]]
    assert len({len(re.findall(r"^## |^- \*\*", page, re.MULTILINE)) for page in pages}) == 1


@pytest.mark.parametrize("page", PAIRS)
def test_a_page_and_its_translation_link_each_other(page):
    for one, other in ((page, PAIRS[page]), (PAIRS[page], page)):
        text = (ROOT / one).read_text(encoding="utf-8")
        linked = {((ROOT / one).parent / link).resolve() for link in LINK.findall(text)}
        assert (ROOT / other).resolve() in linked, one


@pytest.mark.parametrize("page", PAIRS)
def test_chinese_has_its_own_punctuation(page):
    text = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", text))
    assert re.findall(r".{0,9}(?:[\u4e00-\u9fff] ?[,;:!?()]|[,;:!?()][\u4e00-\u9fff]).{0,9}", text) == []


def exists(path, name):
    """Whether a file lies at this path, from the project, its package or the method; and defines the name, if any."""
    folders = (ROOT, ROOT / "simpletuner_twinflow", ROOT / "simpletuner_twinflow/method")
    file = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if file is None or not name:
        return file is not None
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
