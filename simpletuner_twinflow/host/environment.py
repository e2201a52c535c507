"""What SimpleTuner would meet in this environment when it starts, without importing SimpleTuner: for `doctor`.

Its start imports every model family. So what one of them needs ends a run of any other.
"""

import os
import re
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from simpletuner_twinflow._startup import DISABLE_VARIABLE, HOST
from simpletuner_twinflow.host.sources import definitions

BUILT_TOGETHER = ("torch", "torchvision", "torchaudio")  # compiled against each other; a family imports the last
SEEN_TOGETHER = "torch==2.13.0 torchvision==0.28.0 torchaudio==2.11.0"
WAY_OUT = f"Way out: pip install {SEEN_TOGETHER}, which were seen to work together (docs/hosts.md)."
OLDER_TRANSFORMERS = 'Way out: pip install "transformers<5.21", which was seen to work (docs/hosts.md).'
FROM_TRANSFORMERS = re.compile(r"^from (transformers\.[\w.]+) import (?:\(([^)]*)\)|([^\n(]*))", re.MULTILINE)
START_LIMIT = 180  # seconds
AFTER_IMPORTS = "rest"
START = "import simpletuner.helpers.configuration.cmd_args"  # imports what a start does
LONGEST = 300  # characters of an error that are shown


class Lacking(NamedTuple):
    """A name that a family's file imports from transformers, and that the installed transformers does not have."""

    file: str
    module: str
    name: str


def failing_imports(came_to: Callable[[str], None]) -> dict[str, str]:
    """A problem for each of BUILT_TOGETHER that cannot be imported, by name.

    Args: came_to: is called with each name before it is imported, and with AFTER_IMPORTS.
    """
    found = {}
    for name in BUILT_TOGETHER:
        came_to(name)
        try:
            with warnings.catch_warnings(action="ignore"):
                import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a module runs whatever it likes when it is imported
            said = " ".join("".join(traceback.format_exception_only(error)).split())
            found[name] = _unimportable(name, said[:LONGEST].rstrip("."))
            if name == "torch":  # nor can the others, then
                break
    came_to(AFTER_IMPORTS)
    return found


def what_ended(end: str, at: str) -> str:
    """The problem where an examination did not come to its end.

    Args: end: as `end_in_words` says it; at: what it came to last, of what `failing_imports` names.
    """
    if at in BUILT_TOGETHER:
        return _unimportable(at, f"the process was ended by {end} in the import")
    where = f", though {', '.join(BUILT_TOGETHER)} can be imported" if at == AFTER_IMPORTS else ""
    return (
        f"The examination was ended by {end}{where}. Way out: see what it says above, whether the machine has memory "
        "left and whether its log names the cause, and start it again."
    )


def end_in_words(code: int | None, seconds: int | None = None) -> str:
    """What ended a process. Args: code: as `subprocess` has it, below 0 for a signal; seconds: of the time limit."""
    if code is None:
        return f"the time limit of {seconds} s"
    if code >= 0:
        return f"exit code {code}"
    known = -code in {*signal.Signals}
    return f"signal {-code}" + (f" ({signal.Signals(-code).name})" if known else "")


def lacking_in_transformers() -> list[Lacking]:
    """Names that the families' files import at their top, looked up in the source files of transformers."""
    spec = find_spec(HOST)
    roots = [Path(place, "helpers/models") for place in (spec.submodule_search_locations or ())] if spec else []
    found = []
    for root in roots:
        for file in sorted(root.rglob("*.py")):
            for match in FROM_TRANSFORMERS.finditer(file.read_text(encoding="utf-8", errors="replace")):
                module = match[1]
                found += [
                    Lacking(file.relative_to(root).as_posix(), module, name)
                    for name in _names(match[2] or match[3])
                    if not _has(module, name)
                ]
    return found


def problems_and_notes(failing: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What ends every run at its start, and what may. Args: failing: of `failing_imports`.

    A start is tried only where a name is missing: seconds, which no sound environment pays.
    """
    notes = outside_ranges()
    problems = [*failing.values()]
    lacking = [
        f"SimpleTuner's {each.file} imports {each.name} from {each.module}, which transformers "
        f"{_version('transformers')} does not have."
        for each in lacking_in_transformers()
    ]
    if not lacking:
        return problems, notes
    ended = None if failing else start_error()
    if not failing and ended is None:
        return problems, [*notes, *(f"{line} SimpleTuner can be imported all the same." for line in lacking)]
    said = "" if ended is None else f' Its start ends with "{ended}".'
    return [*problems, *(f"{line}{said} {OLDER_TRANSFORMERS}" for line in lacking)], notes


def start_error() -> str | None:
    """The last line of what the import of a run's start ends with; None where it succeeds. Takes some 20 seconds."""
    try:
        result = _python(START, timeout=START_LIMIT)
    except subprocess.TimeoutExpired:
        return f"no start within {START_LIMIT} s"
    if result.returncode < 0:
        return end_in_words(result.returncode)
    lines = result.stderr.strip().splitlines() or [end_in_words(result.returncode)]
    named = [line for line in lines if re.match(r"\w*(Error|Exception)\b", line)]
    return None if result.returncode == 0 else (named or lines)[-1][:LONGEST]


def outside_ranges() -> list[str]:
    """A line on each package that SimpleTuner's own metadata asks for in another version, or that is not installed.

    What it declares in extras alone counts for BUILT_TOGETHER, of which each extra has some.
    """
    asked: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requires(HOST) or ()):
        holds = partial(_holds, requirement)
        if holds("") or (requirement.name in BUILT_TOGETHER and any(map(holds, _extras()))):
            asked.setdefault(requirement.name, []).append(requirement)
    lines = []
    for name, requirements in asked.items():
        ranges = " or ".join(dict.fromkeys(f"{name}{each.specifier}" for each in requirements))
        try:
            found = version(name)
        except PackageNotFoundError:
            lines.append(f"SimpleTuner asks for {ranges}: it is not installed.")
            continue
        if not any(each.specifier.contains(found, prereleases=True) for each in requirements):
            lines.append(f"SimpleTuner asks for {ranges}: {found} is installed.")
    return lines


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _extras() -> Iterator[str]:
    """The extras that SimpleTuner's requirements name."""
    for text in requires(HOST) or ():
        yield from re.findall(r'extra == "([^"]+)"', text)


def _names(text: str) -> Iterator[str]:
    """The names of an import statement. Args: text: what stands after `import`."""
    for each in re.sub(r"#.*", "", text).split(","):
        if (name := each.split(" as ")[0].strip()) and name != "*":
            yield name


def _has(module: str, name: str) -> bool:
    """Whether a module of transformers has this name, as far as its file shows it."""
    scope = definitions(module)
    return (scope is not None and (name in scope or "*" in scope)) or definitions(f"{module}.{name}") is not None


def _python(code: str, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, without the plugin, as a start of SimpleTuner imports."""
    environment = {key: value for key, value in os.environ.items() if key != "SIMPLETUNER_SKIP_TORCH"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env=environment | {DISABLE_VARIABLE: "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )


def _unimportable(name: str, said: str) -> str:
    beside = "" if name == "torch" else f" beside torch {_version('torch')}"
    return f"{name} {_version(name)} cannot be imported{beside}, which SimpleTuner does at its start: {said}. {WAY_OUT}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
