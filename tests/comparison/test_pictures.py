"""Which pictures stand side by side."""

import base64
import io

from PIL import Image

from simpletuner_twinflow.comparison.pictures import MAX_SIDE, as_data, opened, side_by_side
from simpletuner_twinflow.comparison.run import Picture, Run
from tests.comparison.folders import write_picture


def run(folder, **steps: list[int]) -> Run:
    return Run("x", [], pictures=[Picture(label, step, folder) for label, own in steps.items() for step in own])


def test_latest_common_step_and_each_ones_end(tmp_path):
    runs = [run(tmp_path, a=[10, 20, 30]), run(tmp_path, a=[10, 20]), run(tmp_path, b=[5])]
    together, at_end = side_by_side(runs)
    assert "step 20" in together.title
    [(label, pictures)] = together.rows
    assert (label, [one and one.step for one in pictures]) == ("a", [20, 20, None])
    assert [(label, [one and one.step for one in row]) for label, row in at_end.rows] == [
        ("a", [30, 20, None]),
        ("b", [None, None, 5]),
    ]


def test_equal_ends_are_shown_once(tmp_path):
    [group] = side_by_side([run(tmp_path, a=[10]), run(tmp_path, a=[10])])
    assert "step 10" in group.title


def test_contact_sheets_come_first(tmp_path):
    one = run(tmp_path, a=[10])
    one.pictures.append(Picture("twinflow/contact_sheet", 10, tmp_path))
    [group] = side_by_side([one])
    assert [row.label for row in group.rows] == ["twinflow/contact_sheet", "a"]


def test_large_pictures_are_made_smaller_and_broken_ones_are_none(tmp_path):
    image = opened(Picture("a", 1, write_picture(tmp_path / "a.png", size=(3000, 1500))))
    assert image.size == (MAX_SIDE, MAX_SIDE // 2)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    assert opened(Picture("b", 1, tmp_path / "b.png")) is None
    assert opened(Picture("c", 1, tmp_path / "c.png")) is None


def test_a_small_picture_is_kept_to_the_bit(tmp_path):
    image = opened(Picture("a", 1, write_picture(tmp_path / "a.png", "#123456")))
    head, data = as_data(image).split(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").getpixel((3, 3)) == (0x12, 0x34, 0x56)
