"""The host's version and the range of hosts this plugin supports."""

from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow._startup import HOST


def host_version() -> str:
    return version(HOST)


def supported_range() -> SpecifierSet:
    """The supported hosts, as stated in `pyproject.toml` (extra `host`) and nowhere else."""
    requirements = map(Requirement, requires(DISTRIBUTION) or ())
    return next(requirement.specifier for requirement in requirements if requirement.name == HOST)


def is_supported() -> bool:
    """Whether the installed host, which may be a pre-release, is in the supported range."""
    return supported_range().contains(host_version(), prereleases=True)
