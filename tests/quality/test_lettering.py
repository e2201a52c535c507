"""Labels in scripts that Pillow's own font does not have."""

import subprocess
import sys

import pytest
from PIL import ImageFont

from simpletuner_twinflow.quality import lettering
from simpletuner_twinflow.quality.lettering import NO_CHARACTER, SIZE, lettered

OWN = ImageFont.load_default(SIZE).getname()


@pytest.fixture
def dejavu_alone(monkeypatch):
    """A machine without a font for Chinese."""
    known = lettering._files()
    monkeypatch.setattr(lettering, "_files", lambda: known[:1])
    for cached in (lettering._best, lettering._say):
        cached.cache_clear()
    yield
    lettering._best.cache_clear()


def test_label_has_the_first_font_with_all_its_characters():
    latin, russian = lettered(["a cat, 2 steps", "кошка"])
    assert (latin.text, latin.font.getname()) == ("a cat, 2 steps", OWN)
    assert (russian.text, russian.font.getname()) == ("кошка", ("DejaVu Sans", "Book"))
    missing = bytes(russian.font.getmask(NO_CHARACTER))
    assert all(bytes(russian.font.getmask(letter)) != missing for letter in "кошка")


@pytest.mark.usefixtures("dejavu_alone")
def test_characters_that_no_font_has_are_left_out_and_said_once_with_the_labels_number(caplog):
    for _ in range(2):
        plain, chinese, mixed, russian = lettered(["a cat", "一只猫", "a 猫 in हिन्दी", "кошка"])
    assert [plain.text, chinese.text, mixed.text, russian.text] == ["a cat", "[2]", "[3] a in", "кошка"]
    assert chinese.font.getname() == OWN  # the first of those that lack as much
    [said] = caplog.messages
    assert "[2] 一只猫; [3] a 猫 in हिन्दी. Way out: install a font" in said


@pytest.mark.usefixtures("dejavu_alone")
@pytest.mark.parametrize(
    ("label", "text", "font"),
    [
        ("\ufeffa cat\u200b, \u200ered\u00ad", "a cat, red", OWN),
        ("a\u200d\ufe0f\tb\u00a0c\x00d", "a b\u00a0c d", OWN),
        ("می\u200cم", "می\u200cم", ("DejaVu Sans", "Book")),
    ],
    ids=["marks", "controls", "joiner"],
)
def test_what_nobody_sees_is_neither_missing_nor_boxed(label, text, font):
    [found] = lettered([label])
    assert (found.text, found.font.getname()) == (text, font)


def test_plain_labels_wait_for_no_list_of_the_machines_fonts():
    code = (
        "from simpletuner_twinflow.quality import lettering; lettering.lettered(['a cat']); "
        "print(lettering._files.cache_info().misses); lettering.lettered(['кошка']); "
        "print(lettering._files.cache_info().misses)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", "1"]


def test_without_matplotlib_fonts_are_looked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert lettering._files.__wrapped__() == lettering.BY_NAME
    assert lettering._opened("NoSuchFont.ttf") is None
