"""A wheel that lacks something, or has something more, is noticed before it is installed."""

import sys
import tarfile
import zipfile

import pytest

from testbed import dist

INFO = f"{dist.NAME}.dist-info"


def contents():
    """The files of a wheel as it must be, by name."""
    sources = [path.relative_to(dist.ROOT).as_posix() for path in (dist.ROOT / "simpletuner_twinflow").rglob("*.py")]
    groups = dist.PROJECT["entry-points"] | {"console_scripts": dist.PROJECT["scripts"]}
    written = "\n".join(
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in entries.items())
        for group, entries in groups.items()
    )
    others = ("simpletuner_twinflow/py.typed", "simpletuner_twinflow.pth", "simpletuner_twinflow.start")
    made = dict.fromkeys([*sources, *others, f"{INFO}/licenses/LICENSE", f"{INFO}/METADATA"], "")
    return made | {f"{INFO}/entry_points.txt": written}


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A function that makes these files the wheel."""

    def pack(files):
        monkeypatch.setattr(dist, "WHEEL", tmp_path / "made.whl")
        with zipfile.ZipFile(dist.WHEEL, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    return pack


def test_wheel_as_it_must_be_passes(pack):
    pack(contents())
    dist.wheel()


@pytest.mark.parametrize(
    "name",
    [
        "simpletuner_twinflow/py.typed",
        "simpletuner_twinflow.pth",
        "simpletuner_twinflow.start",
        "simpletuner_twinflow/host/seams.py",
        f"{INFO}/licenses/LICENSE",
    ],
)
def test_what_the_wheel_lacks_is_named(name, pack):
    files = contents()
    del files[name]
    pack(files)
    with pytest.raises(dist.DistError, match=f"lacks .*{name}"):
        dist.wheel()


def test_tests_in_the_wheel_are_refused(pack):
    pack(contents() | {"tests/test_options.py": ""})
    with pytest.raises(dist.DistError, match=r"has .*tests.* beside the package"):
        dist.wheel()


def test_entry_point_that_went_missing_is_noticed(pack):
    files = contents()
    files[f"{INFO}/entry_points.txt"] = files[f"{INFO}/entry_points.txt"].replace("announce:attach_to_start", "gone:x")
    pack(files)
    with pytest.raises(dist.DistError, match="entry points"):
        dist.wheel()


def test_file_of_the_repository_that_the_sdist_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "SDIST", tmp_path / "made.tar.gz")
    with tarfile.open(dist.SDIST, "w:gz") as archive:
        archive.add(dist.ROOT / "README.md", f"{dist.NAME}/README.md")
    dist.complete({"README.md", "removed.md"})
    with pytest.raises(dist.DistError, match=r"the sdist lacks \['README\.zh-CN\.md'\]"):
        dist.complete({"README.md", "README.zh-CN.md"})


def test_command_that_ends_with_another_code_is_a_failure_with_its_last_words(tmp_path):
    assert dist.said(sys.executable, "-c", "print('well')", cwd=tmp_path) == "well\n"
    with pytest.raises(dist.DistError, match=r"exit 3, not 0\nlast words"):
        dist.said(sys.executable, "-c", "print('last words'); raise SystemExit(3)", cwd=tmp_path)
