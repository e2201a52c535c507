"""A contact sheet: rows of pictures with a label on the left of each row and on top of each column."""

from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8  # pixels around each cell
LABEL_WIDTH = 180  # of the column of row labels


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """One picture of them all.

    Args:
        rows: pictures, as many in each row as there are column labels.
        row_labels: one a row; a long one is wrapped, and cut where the row ends.
        column_labels: one a column.
    """
    width = max(image.width for row in rows for image in row)
    height = max(image.height for row in rows for image in row)
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(14))  # Pillow's wheels have FreeType
    line = sum(font.getmetrics())
    top, left = line + 2 * MARGIN, LABEL_WIDTH + 2 * MARGIN
    sheet = Image.new(
        "RGB", (left + len(column_labels) * (width + MARGIN), top + len(rows) * (height + MARGIN)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (width + MARGIN), MARGIN), label, fill="black", font=font)
    for row, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + row * (height + MARGIN)
        fitting = max(height // line, 1)
        lines = _wrapped(label, font)
        shown = lines if len(lines) <= fitting else [*lines[: fitting - 1], lines[fitting - 1] + " ..."]
        for number, text in enumerate(shown):
            draw.text((MARGIN, y + number * line), text, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(image, (left + column * (width + MARGIN), y))
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= LABEL_WIDTH or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
