"""The page as a whole."""

import re
from html.parser import HTMLParser

from simpletuner_twinflow.comparison.page import page
from simpletuner_twinflow.comparison.run import Measured, Picture, Run
from simpletuner_twinflow.comparison.series import Series
from tests.comparison.folders import PLAIN, TWINFLOW, write_picture

EVIL = "<script>alert('x')</script>&\"'"
VOID = {"meta", "img", "br", "link", "input"}


class Tags(HTMLParser):
    """Open tags that match their ends, and all attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def evil_run(folder) -> Run:
    series = Series.of({1: (1.0, 2.0)})
    return Run(
        EVIL,
        [folder / EVIL],
        {f"loss/{EVIL}": series},
        {Measured("ema", 1, "mmd_in_errors"): series},
        config=TWINFLOW | {"prompt": EVIL, EVIL: EVIL},
        config_kind=EVIL,
        pictures=[Picture(EVIL, 1, write_picture(folder / "a.png")), Picture("broken", 1, folder / EVIL)],
        sources={"losses": EVIL},
        notes=[EVIL],
    )


def test_everything_from_a_file_is_escaped(tmp_path):
    text = page([evil_run(tmp_path), Run("試験", [], config=PLAIN)])
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "試験" in text


def test_nothing_is_loaded_from_anywhere(tmp_path):
    text = page([evil_run(tmp_path)])
    for name, value in Tags(text).attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("data:", "#")), (name, value)
    assert not re.search(r"@import|url\((?!#)", text)


def test_plain_runs_say_why_they_have_no_quality_and_losses_are_not_compared():
    series = Series.of({1: (1.0, 2.0)})
    text = " ".join(page([Run("p", [], {"train_loss": series}, config=PLAIN)]).split())
    assert "p: not measured: plain run" in text
    assert "not comparable across modes" in text
    assert "None says anything about few-step quality" in text


def test_a_run_of_which_nothing_is_known_has_a_page(tmp_path):
    text = page([Run("nothing", [tmp_path])])
    for words in ("nothing could be read", "not recorded", "No loss was recorded", "One run"):
        assert words in text
