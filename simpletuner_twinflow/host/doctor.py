"""Examines an installation and a configuration without loading a model: started by `simpletuner-twinflow doctor`.

Everything that it says comes from what a run's start-up uses, so that what it accepts is what starts.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow._startup import DISABLE_VARIABLE
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host import environment, versions

SWITCHED_OFF = "SIMPLETUNER_TWINFLOW_DOCTOR_DISABLED"  # tells this process that the user has switched the plugin off
BAD = 1  # exit code where a run would be refused
PACKAGES = ("torch", "torchvision", "torchaudio", "diffusers", "accelerate", "peft", "transformers")
READERS = {".json": json.loads, ".toml": tomllib.loads}
SUFFIXES = (*READERS, ".env")


def main(argv: Sequence[str], out: TextIO | None = None) -> int:
    """Print what was found. Returns: 0, or `BAD` where a run with TwinFlow would be refused.

    Args:
        argv: the command's.
        out: for the report; by default standard output.
    """
    parser = argparse.ArgumentParser(prog="simpletuner-twinflow doctor")
    parser.add_argument("config", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mark", help="name what the examination comes to, a line each, and this before the report")
    parser.add_argument("--ended", type=int, help="the exit code of an examination that was ended, to report that")
    parser.add_argument("--stuck", type=int, help="the seconds after which one was stopped, to report that")
    parser.add_argument("--at", default="", help="what that one came to last")
    arguments = parser.parse_args(argv)

    def came_to(name: str) -> None:
        if arguments.mark is not None:
            print(name, file=out, flush=True)

    report: dict[str, Any] = {"versions": installed(), "notes": []}
    if report["versions"]["simpletuner"] is None:
        way_out = "Install the plugin where it is, or both: pip install 'simpletuner-twinflow[host]'."
        report |= {"problems": [f"SimpleTuner is not installed in this environment. {way_out}"], "seams": {}}
    elif arguments.ended is not None or arguments.stuck is not None:
        end = environment.end_in_words(arguments.ended, arguments.stuck)
        report |= {"problems": [environment.what_ended(end, arguments.at)], "seams": {}}
    elif "torch" in (broken := environment.failing_imports(came_to)):
        report |= {"problems": [*broken.values()], "seams": {}}  # nothing can be examined without it
    else:
        found, supported = report["versions"]["simpletuner"], report["versions"]["range"]
        problems, notes = environment.problems_and_notes(broken)
        if not report["versions"]["supported"]:
            problems.append(f"SimpleTuner {found} is not supported: {supported} is.")
        report |= _examined(arguments.config)
        report["notes"] = notes + report["notes"]
        report["problems"] += [f"Missing in SimpleTuner {found}: {problem}." for problem in report["seams"]["needed"]]
        report["problems"] += problems
    if os.environ.get(SWITCHED_OFF, "0") not in ("", "0"):
        report["problems"].append(f"{DISABLE_VARIABLE} is set: the plugin does not attach, and runs train without it.")
    report["ok"] = not report["problems"] and not report.get("missing")
    came_to(arguments.mark)
    print(json.dumps(report, indent=1, default=str) if arguments.json else as_text(report), file=out, flush=True)
    return 0 if report["ok"] else BAD


def _examined(config: Path | None) -> dict[str, Any]:
    """What the host lacks, and the configuration, if there is one. Args: config: as `configuration` takes it."""
    from simpletuner_twinflow.host.settings.examined import examined  # here, since it waits for torch

    # The seams first: they load the hooks, which the host's command comes by.
    report: dict[str, Any] = {"notes": [], "seams": seams()}
    with _heard(report["notes"]):
        given, problems = configuration(config)
        report |= examined(given) if given is not None else {"problems": problems}
    if report.get("on"):
        report["seams"] = seams(given)
    return report


class _Listener(logging.Handler):
    """Keeps what the plugin logs while it reads a configuration."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message once."""
        if (message := record.getMessage()) not in self.heard:
            self.heard.append(message)


@contextlib.contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    logger, listener = logging.getLogger("simpletuner_twinflow"), _Listener(notes)
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = True


def installed() -> dict[str, Any]:
    """Versions, and whether the host's is supported; None for what is not installed."""
    found: dict[str, Any] = {"python": platform.python_version(), DISTRIBUTION: version(DISTRIBUTION)}
    for name in ("simpletuner", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    supported = found["simpletuner"] is not None and versions.is_supported()
    return found | {"supported": supported, "range": str(versions.supported_range())}


def seams(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is missing in the installed host, from its source files. Args: config: of the run that needs it, if any."""
    from simpletuner_twinflow.host.sources import problems_in_sources

    needed, optional = problems_in_sources(config)
    return {"needed": needed, "optional": optional}


def configuration(path: Path | None) -> tuple[dict[str, Any] | None, list[str]]:
    """A configuration as `simpletuner train` reads it, keys without dashes; or None and the problems of reading it.

    Args: path: of the file; None for the one that a command without arguments reads in this folder.
    """
    from simpletuner_twinflow.host.settings.given import as_mapping
    from simpletuner_twinflow.host.settings.preflight import read_configuration

    places = [Path(folder, f"config{suffix}") for folder in (".", "config") for suffix in SUFFIXES]
    if path is None and "ENV" not in os.environ and not any(place.exists() for place in places):
        return None, []
    taken: list[Sequence[str]] = []
    try:
        if path is not None and not (path.suffix in READERS and path.is_file()):
            return None, [f"{path} is not a config file: give a .json or .toml file that exists."]
        with contextlib.redirect_stdout(io.StringIO()):
            if path is None:
                read_configuration(["simpletuner", "train"], taken.append)
            else:
                taken.append(_arguments(path))
    except TwinFlowConfigError as error:  # raised where the host turns values into arguments
        return None, list(error.problems)
    except Exception as error:  # noqa: BLE001 - whatever the host's readers raise on what is no configuration
        return None, [f"{path or 'The configuration in this folder'} cannot be read: {error!r:.300}"]
    if not taken:
        return None, ["SimpleTuner itself finds no configuration in this folder."]
    return dict(as_mapping(taken[-1])), []


def _arguments(path: Path) -> list[str]:
    """The arguments that the host makes of a config file. Raises: ValueError: It is none."""
    from simpletuner_twinflow.host.settings.preflight import leave_out_torch

    leave_out_torch(None)
    from simpletuner.helpers.configuration.cli_utils import mapping_to_cli_args

    content = READERS[path.suffix](path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no keys and values")
    return mapping_to_cli_args(content)


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    found, lacking = report["versions"], report["seams"]
    lines = [
        ", ".join(f"{name} {found[name]}" for name in (DISTRIBUTION, "simpletuner", "python", *PACKAGES) if found[name])
    ]
    lines += [f"missing in the host: {problem}; so {lost}" for problem, lost in lacking.get("optional", {}).items()]
    if lacking and not lacking["needed"] and not lacking["optional"]:
        lines.append("every place of the host that the plugin touches is there")
    if "options" in report:
        chosen = {key: at["value"] for key, at in report["options"].items() if at["from"] == "config"}
        said = [f"{key} {json.dumps(value, default=dict)}" for key, value in chosen.items()]
        lines.append(f"set: {', '.join(said) or 'no twinflow_* key'}; the others have their defaults")
    if "run" in report:
        from simpletuner_twinflow.host.settings.summary import block  # here, since it waits for torch

        lines.append(block("a run with this configuration", report["run"]))
    lines += dict.fromkeys([*report["notes"], *report.get("hub", []), *report.get("overridden", [])])
    problems = [*report["problems"], *report.get("missing", [])]
    lines += problems
    if problems:
        lines.append(f"{len(problems)} problem{'s' * (len(problems) > 1)}: a run would stop at its start.")
    elif "on" not in report:
        lines.append("No configuration was examined: give a file, or start it where SimpleTuner finds one.")
    elif report["on"]:
        start = "would start" if report["data"] else "would start once data_backend_config names a file"
        lines.append(f"TwinFlow {start}. Of SimpleTuner's own keys only those that concern TwinFlow were checked.")
    else:
        lines.append("TwinFlow is off in this configuration.")
    return "\n".join(lines)


def report_alone() -> TextIO:
    """Standard output, which nobody but its taker writes to from here on: what imports print goes to standard error."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)  # also for libraries that print by themselves
    return out


if __name__ == "__main__":
    # At once, since what libraries do when they are unloaded, and may fail at, is no matter of a run's start.
    os._exit(main(sys.argv[1:], report_alone()))
