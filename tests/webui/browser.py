"""Headless Chromium on the server's page; what the page loads from a network comes out of npm packages."""

import contextlib
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from playwright.sync_api import Page, Route, sync_playwright

SCRIPTS = Path(os.environ.get("WEBUI_SCRIPTS", Path(__file__).parents[2] / ".venv/webui")) / "node_modules"
PACKAGE = re.compile(r"^(?:/npm)?/(?P<name>(?:@[^/]+/)?[^@/]+)@[^/]+/(?P<file>.+)$")
ICONS = re.compile(r"^.*/font-awesome/[^/]+/(?P<file>.+)$")
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where the browser is: the variable CHROMIUM, or one that is installed."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


def file_of(url: str) -> Path | None:
    """The file of an npm package that an address of a script network stands for."""
    path = urlparse(url).path
    if icons := ICONS.match(path):
        return SCRIPTS / "@fortawesome/fontawesome-free" / icons["file"]
    if found := PACKAGE.match(path):
        return SCRIPTS / found["name"] / found["file"]
    return None


@contextlib.contextmanager
def page_of(address: str) -> Iterator[Page]:
    """A page on that server. Raises, at its end: AssertionError: It asked for a file that no package has."""
    missing: list[str] = []

    def serve(route: Route) -> None:
        url = route.request.url
        if url.startswith(address):
            route.continue_()
        elif (file := file_of(url)) is not None and file.is_file():
            route.fulfill(path=file, content_type=mimetypes.guess_type(file)[0] or "application/octet-stream")
        else:
            missing.append(url)
            route.abort()

    with sync_playwright() as playwright:
        # Without its sandbox, which a container does not allow; the page is the server's own.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.route(re.compile("^https?://"), serve)
            yield page
        finally:
            browser.close()
    assert missing == []
