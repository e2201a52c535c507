"""A contact sheet: rows of pictures with a label on the left of each row and on top of each column."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from simpletuner_twinflow.quality.lettering import Lettered, lettered

MARGIN = 8  # pixels around each cell
LABEL_WIDTH = 180  # of the column of row labels


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """One picture of them all, whatever script the labels are in (`lettered`).

    Args:
        rows: pictures, as many in each row as there are column labels.
        row_labels: one a row; a long one is wrapped, and cut where the row ends.
        column_labels: one a column.
    """
    width = max(image.width for row in rows for image in row)
    height = max(image.height for row in rows for image in row)
    heads = lettered(column_labels)
    line = max(head.line for head in heads)
    top, left = line + 2 * MARGIN, LABEL_WIDTH + 2 * MARGIN
    sheet = Image.new(
        "RGB", (left + len(column_labels) * (width + MARGIN), top + len(rows) * (height + MARGIN)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((left + column * (width + MARGIN), MARGIN), head.text, fill="black", font=head.font)
    for row, (images, label) in enumerate(zip(rows, lettered(row_labels), strict=True)):
        y = top + row * (height + MARGIN)
        for number, text in enumerate(_fitting(_wrapped(label), label, height)):
            draw.text((MARGIN, y + number * label.line), text, fill="black", font=label.font)
        for column, image in enumerate(images):
            sheet.paste(image, (left + column * (width + MARGIN), y))
    return sheet


def _fits(text: str, label: Lettered) -> bool:
    return label.font.getlength(text) <= LABEL_WIDTH


def _wrapped(label: Lettered) -> list[str]:
    """The lines of a label: broken at spaces, and inside of what is wider than a line, as a text without spaces is."""
    lines = [""]
    for word in label.text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _fits(longer, label):
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and not _fits(lines[-1] + character, label):
                lines.append("")
            lines[-1] += character
    return lines


def _fitting(lines: list[str], label: Lettered, height: int) -> list[str]:
    """The lines that a row has room for, the last of them shortened where others follow. Args: height: of the row."""
    count = max(height // label.line, 1)
    if len(lines) <= count:
        return lines
    last = lines[count - 1]
    while last and not _fits(f"{last} ...", label):
        last = last[:-1]
    return [*lines[: count - 1], f"{last} ..."]
