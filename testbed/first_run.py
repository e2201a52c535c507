"""What a reader takes from docs/first-run.md: its boxes, and the site's download of the base and the config."""

import io
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/first-run.md"
BASE = ROOT / "demo/shapes_base"
DOWNLOAD = "downloads/first-run.zip"  # on the site
NAMED = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DAY_ONE = (1980, 1, 1, 0, 0, 0)  # of the format: the same files make the same archive on every day


def named_boxes() -> dict[str, str]:
    """The files that the page shows, by the name above the box."""
    return dict(NAMED.findall(PAGE.read_text(encoding="utf-8")))


def shell_lines(heading: str) -> list[str]:
    """The commands of the first shell box under a heading, without their comments."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    box = SHELL.search(rest.partition("\n## ")[0])
    if not found or box is None:
        raise LookupError(f"docs/first-run.md has no shell box under {heading!r}")
    return [line.partition("  # ")[0].rstrip() for line in box[1].splitlines()]


def download() -> bytes:
    """The archive: the tiny base as `model`, and the page's config."""
    files = {
        f"model/{path.relative_to(BASE).as_posix()}": path.read_bytes() for path in BASE.rglob("*") if path.is_file()
    }
    files |= {name: text.encode() for name, text in named_boxes().items() if name.startswith("config/")}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, DAY_ONE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return made.getvalue()
