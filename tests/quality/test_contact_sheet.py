"""The contact sheet's layout."""

import numpy as np
import pytest
from PIL import Image

from simpletuner_twinflow.quality.contact_sheet import LABEL_WIDTH, MARGIN, _fitting, contact_sheet
from simpletuner_twinflow.quality.lettering import lettered


def test_contact_sheet_cuts_a_long_label_at_its_row():
    image = Image.new("RGB", (32, 32), "red")
    sheet = np.asarray(contact_sheet([[image], [image]], ["word " * 100, ""], ["seed 0"]))
    top = sheet.shape[0] - 2 * (32 + MARGIN)
    below_first_row = sheet[top + 32 + MARGIN :, : LABEL_WIDTH + MARGIN]
    assert (below_first_row == 255).all()
    assert (sheet[top : top + 32, : LABEL_WIDTH + MARGIN] < 255).any()


@pytest.mark.parametrize(
    "label", ["x" * 60, "Кошка" * 20, "a " + "b,c" * 30, "word " * 100], ids=["Latin", "Cyrillic", "tags", "cut"]
)
def test_label_without_spaces_is_wrapped_inside_its_column(label):
    sheet = np.asarray(contact_sheet([[Image.new("RGB", (64, 128), "red")]], [label], ["seed 0"]))
    top = sheet.shape[0] - 128 - MARGIN
    inked = (sheet[top:, : LABEL_WIDTH + 2 * MARGIN] < 128).any(axis=2)
    assert not inked[:, LABEL_WIDTH + MARGIN + 1 :].any()
    lines = np.diff(inked.any(axis=1).astype(int)) == 1
    assert lines.sum() >= 3


def test_label_that_is_cut_says_so():
    [label] = lettered(["a b c"])
    assert _fitting(["a", "b", "c"], label, 2 * label.line) == ["a", "b ..."]
    assert _fitting(["a", "b"], label, 2 * label.line) == ["a", "b"]
