"""What docs/first-run.md gives a reader who has the wheel and the site alone."""

import io
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter

import pytest
from PIL import Image

from testbed import first_run, shapes

# Where an install command stands, and how a requirement with a bound looks in it.
INSTALLING = ("README.md", "README.zh-CN.md", "docs/first-run.md", "docs/zh/first-run.md", "docs/hosts.md")
COMMAND = re.compile(r"pip install simpletuner .*")
BOUND = re.compile(r'"(\w+<[\d.]+)"')


def test_the_download_has_the_base_and_the_config_of_the_page():
    with zipfile.ZipFile(io.BytesIO(first_run.download())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    base = {path for path in first_run.BASE.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("model/")} == {
        f"model/{path.relative_to(first_run.BASE).as_posix()}" for path in base
    }
    assert files["model/model_index.json"] == (first_run.BASE / "model_index.json").read_bytes()
    config = json.loads(files["config/config.json"])
    assert config["twinflow_enabled"] is True
    assert config["pretrained_model_name_or_path"] == "model"
    assert config["data_backend_config"] in files


def test_the_download_is_the_same_each_time():
    assert first_run.download() == first_run.download()


def test_the_script_of_the_page_makes_what_the_base_knows(tmp_path):
    subprocess.run([sys.executable, "-c", first_run.named_boxes()["pictures.py"]], cwd=tmp_path, check=True)
    pictures, captions = (sorted((tmp_path / "pictures").glob(kind)) for kind in ("*.png", "*.txt"))
    assert [path.stem for path in pictures] == [path.stem for path in captions]
    assert Counter(path.read_text() for path in captions) == dict.fromkeys(shapes.CAPTIONS, 40)
    for path in pictures:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((shapes.IMAGE_SIZE,) * 2, "RGB")
            assert picture.getpixel((0, 0)) == (0, 0, 0)
            assert max(high for _, high in picture.getextrema()) > 180


@pytest.mark.parametrize("page", INSTALLING)
def test_each_page_installs_with_the_same_bounds(page):
    text = (first_run.ROOT / page).read_text(encoding="utf-8")
    _, install, *_ = first_run.shell_lines("The folder")
    found = [BOUND.findall(line) for line in COMMAND.findall(text)]
    assert found
    assert found == [BOUND.findall(install)] * len(found)


def test_a_heading_without_commands_is_an_error():
    with pytest.raises(LookupError, match="Which layers"):
        first_run.shell_lines("Which layers")
