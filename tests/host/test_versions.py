"""The supported hosts stand in pyproject.toml alone."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from simpletuner_twinflow.host import versions

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_range_is_that_of_the_extra():
    extras = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    [host] = map(Requirement, extras["host"])
    assert versions.supported_range() == host.specifier


def test_installed_host_is_supported():
    assert versions.host_version() == version("simpletuner")
    assert versions.is_supported()


@pytest.mark.parametrize(
    ("found", "supported"), [("4.9.2", False), ("4.9.3", True), ("4.10.2rc1", True), ("4.11.0", False)]
)
def test_versions_inside_the_range_are_supported_and_their_candidates_too(found, supported, monkeypatch):
    monkeypatch.setattr(versions, "host_version", lambda: found)
    assert versions.is_supported() == supported
