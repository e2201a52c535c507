"""The contact sheet's layout."""

import numpy as np
from PIL import Image

from simpletuner_twinflow.quality.contact_sheet import LABEL_WIDTH, MARGIN, contact_sheet


def test_contact_sheet_cuts_a_long_label_at_its_row():
    image = Image.new("RGB", (32, 32), "red")
    sheet = np.asarray(contact_sheet([[image], [image]], ["word " * 100, ""], ["seed 0"]))
    top = sheet.shape[0] - 2 * (32 + MARGIN)
    below_first_row = sheet[top + 32 + MARGIN :, : LABEL_WIDTH + MARGIN]
    assert (below_first_row == 255).all()
    assert (sheet[top : top + 32, : LABEL_WIDTH + MARGIN] < 255).any()
