"""Fonts for labels in any script, of those that the machine has."""

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

from PIL import ImageFont

SIZE = 14  # pixels
LAST_RESORT = "LastResort"  # a font that comes with matplotlib, with a box for every character there is
SPECIAL = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif")  # another font is taken before them
BY_NAME = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc")  # Pillow looks for them where the system keeps fonts
JOINERS = "\u200c\u200d"  # of which the letters beside them take their forms, as in Persian and Hindi
NO_CHARACTER = "\U0010ffff"  # by the standard, so that every font draws what stands for a missing one

log = logging.getLogger(__name__)


class Lettered(NamedTuple):
    """A label as it can be drawn."""

    text: str
    font: ImageFont.FreeTypeFont

    @property
    def line(self) -> int:
        """Pixels from a line to the next."""
        return sum(self.font.getmetrics())


def lettered(labels: Sequence[str]) -> list[Lettered]:
    """Each label, without what nobody sees in it, with the first font that has all its characters.

    Characters that no font has are left out. Such a label bears its number, and the log says once which it is.

    Args: labels: in the order in which they are numbered, from 1.
    """
    found, numbered = [], []
    for number, label in enumerate(map(_seen, labels), start=1):
        font, missing = _best(label)
        if missing:
            numbered.append(f"[{number}] {label}")
            label = " ".join([f"[{number}]", *_without(missing, label).split()])
        drawn = (each for each in label if each not in JOINERS or _draws(font, each))
        found.append(Lettered("".join(drawn), font))
    if numbered:
        _say("; ".join(numbered))
    return found


def _seen(label: str) -> str:
    """The label without controls, marks of order, a file's first mark, and choices of variant: some fonts box them."""
    return "".join(" " if unicodedata.category(each) == "Cc" else each for each in label if not _is_mark(each))


def _is_mark(character: str) -> bool:
    formats = unicodedata.category(character) == "Cf" and character not in JOINERS
    return formats or "\ufe00" <= character <= "\ufe0f"


def _without(missing: frozenset[str], label: str) -> str:
    """The label with spaces in place of some characters, and of the marks on them."""
    kept, left_out = "", False
    for character in label:
        left_out = character in missing or (left_out and unicodedata.category(character)[0] == "M")
        kept += " " if left_out else character
    return kept


@cache
def _best(label: str) -> tuple[ImageFont.FreeTypeFont, frozenset[str]]:
    """The font that lacks least of a label, the first of several, and what it lacks."""
    fonts = _fonts()
    best = next(fonts)
    lacking = _lacking(label, best)
    while lacking and (font := next(fonts, None)) is not None:
        if len(missing := _lacking(label, font)) < len(lacking):
            best, lacking = font, missing
    return best, lacking


def _lacking(label: str, font: ImageFont.FreeTypeFont) -> frozenset[str]:
    return frozenset(each for each in label if not _has(font, each))


def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font draws a character, or it is a space or a joiner."""
    return unicodedata.category(character)[0] == "Z" or character in JOINERS or _draws(font, character)


def _draws(font: ImageFont.FreeTypeFont, character: str) -> bool:
    drawn, missing = font.getmask(character), font.getmask(NO_CHARACTER)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _fonts() -> Iterator[ImageFont.FreeTypeFont]:
    """Pillow's own font, then the machine's."""
    yield cast(ImageFont.FreeTypeFont, ImageFont.load_default(SIZE))  # Pillow's wheels have FreeType
    for file in _files():
        if (font := _opened(file)) is not None:
            yield font


@cache
def _files() -> tuple[str, ...]:
    """Names of font files, the plain ones first."""
    try:
        # Here, since it takes a second and comes with an extra of ours; with it comes DejaVu Sans.
        from matplotlib import font_manager, get_data_path
    except ImportError:
        return BY_NAME
    own = Path(get_data_path(), "fonts/ttf", BY_NAME[0])
    files = [Path(file) for file in font_manager.findSystemFonts() if LAST_RESORT not in file]
    ordered = sorted(files, key=lambda file: (any(word in file.name.lower() for word in SPECIAL), file.name))
    return (str(own), *map(str, ordered))


@cache
def _opened(file: str) -> ImageFont.FreeTypeFont | None:
    """None for what FreeType cannot read at this size, as fonts of bitmaps."""
    try:
        return ImageFont.truetype(file, SIZE)
    except OSError:
        return None


@cache
def _say(labels: str) -> None:
    """Say it once for the same labels, which a run's sheets share."""
    log.warning(
        "No font of this machine has all characters of these labels of the contact sheet, which bear their numbers "
        "there and lack those characters: %s. Way out: install a font that has them, such as the Noto fonts (Debian: "
        "apt-get install fonts-noto-core, for Chinese, Japanese and Korean fonts-noto-cjk).",
        labels,
    )
