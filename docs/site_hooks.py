"""Hooks of mkdocs: what lies beside docs/ and belongs on the site, formulas as MathML, which needs no script, and the
language of the Chinese pages.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from testbed.first_run import DOWNLOAD, download

ROOT = Path(__file__).parents[1]
PAGES = {  # where they are in the repository -> on the site
    "README.md": "index.md",
    "README.zh-CN.md": "zh/index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
FOLDERS = ("sample_configs", "examples")  # whose files can be loaded from the site
MATH = re.compile(r"^```math\n(.*?)^```", re.MULTILINE | re.DOTALL)  # GitHub's fence
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
CHINESE = "[\u2014-\u201f\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
SIGNS = "[\u3001\u3002\uff08\uff09\uff0c\uff1a\uff1b]"  # that have room of their own
# The end of a line within Chinese, which is no space.
WRAPPED = re.compile(rf"(?<={CHINESE})\n(?={CHINESE})|(?<={SIGNS})\n(?=[A-Za-z\[])|(?<=\S)\n(?={SIGNS})")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
PLAIN = (  # browsers leave MathML's mathvariant out, so the letters themselves
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&amp;", "&"),
    (r"\mathbb E", "\U0001d53c"),
    (r"\mathcal N", "\U0001d4a9"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files from beside docs/, and what is made here."""
    files.append(File.generated(config, DOWNLOAD, content=download()))
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=_links_from(source, target, text)))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).iterdir()):
            if path.is_file():
                place = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to what lies beside docs/, formulas as their extension takes them, Chinese without its line ends."""
    place = page.file.src_uri
    if place.startswith("zh/"):
        markdown = WRAPPED.sub("", markdown)
    markdown = markdown.replace(f"`{DOWNLOAD}`", f"[{DOWNLOAD}]({relpath(DOWNLOAD, Path(place).parent.as_posix())})")
    markdown = MATH.sub(lambda found: f"$$\n{found[1]}$$", markdown)
    return markdown if place in PAGES.values() else _links_from(f"docs/{place}", place, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(lambda found: convert(_plain(found[2]), display=_display(found[1])), html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The language of the Chinese pages, for browsers and screen readers; the theme knows one for the whole site."""
    return output.replace('<html lang="en"', '<html lang="zh"', 1) if page.file.src_uri.startswith("zh/") else output


def _display(tag: str) -> str:
    return "block" if tag == "div" else "inline"


def _plain(formula: str) -> str:
    for name, sign in PLAIN:
        formula = formula.replace(name, sign)
    return formula


def _links_from(source: str, target: str, text: str) -> str:
    """A page's text with its links as they are on the site. Args: source: its place here; target: there."""

    def moved(found: re.Match[str]) -> str:
        path = normpath(f"{Path(source).parent.as_posix()}/{found['path']}")
        there = PAGES.get(path, path.removeprefix("docs/"))
        if there == path and path not in PAGES.values() and path.split("/")[0] not in FOLDERS:
            return f"{found['text']} (`{path}`)"  # of the repository alone
        place = relpath(there, Path(target).parent.as_posix())
        return f"{found['image']}[{found['text']}]({place}{found['anchor'] or ''})"

    return LINK.sub(moved, text)
