"""Examines an installation and a configuration without loading a model: started by `simpletuner-twinflow doctor`.

Everything that it says comes from what a run's start-up uses, so that what it accepts is what starts.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from simpletuner_twinflow._hooks import DISTRIBUTION
from simpletuner_twinflow.errors import TwinFlowConfigError
from simpletuner_twinflow.host import versions
from simpletuner_twinflow.host.settings.conflict_rows import as_number
from simpletuner_twinflow.host.settings.families import DIFFUSION_FAMILIES, FAMILIES, predicts_flow
from simpletuner_twinflow.host.settings.given import EMA_ADDED, USE_EMA, as_mapping, checked
from simpletuner_twinflow.host.settings.guidance import settled
from simpletuner_twinflow.host.settings.overridden import overridden
from simpletuner_twinflow.host.settings.preflight import leave_out_torch, read_configuration
from simpletuner_twinflow.host.settings.summary import block, summary
from simpletuner_twinflow.options import PREFIX, TwinFlowOptions
from simpletuner_twinflow.sampling.schedule import SamplerSettings

BAD = 1  # exit code where a run would be refused
PACKAGES = ("torch", "diffusers", "accelerate", "peft", "transformers")
READERS = {".json": json.loads, ".toml": tomllib.loads}
SUFFIXES = (*READERS, ".env")
HOST_DEFAULTS: dict[str, Any] = {  # of the keys that the summary reads, as SimpleTuner's parser has them
    "model_type": "full",
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "use_ema": False,
    "ema_decay": 0.995,
    "lora_init_type": "default",
    "caption_dropout_probability": 0.1,
}
NUMBERS = ("train_batch_size", "gradient_accumulation_steps")


def main(argv: Sequence[str]) -> int:
    """Print what was found. Returns: 0, or `BAD` where a run with TwinFlow would be refused."""
    parser = argparse.ArgumentParser(prog="simpletuner-twinflow doctor")
    parser.add_argument("config", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    report = {"versions": installed(), **seams()}
    given, problems = configuration(arguments.config)
    report |= examined(given) if given is not None else {"problems": problems}
    report["ok"] = not (report["problems"] or report["seams"]["needed"] or not report["versions"]["supported"])
    print(json.dumps(report, indent=1, default=str) if arguments.json else as_text(report))
    return 0 if report["ok"] else BAD


def installed() -> dict[str, Any]:
    """Versions, and whether the host's is supported."""
    found = {"python": platform.python_version(), DISTRIBUTION: version(DISTRIBUTION)}
    try:
        found["simpletuner"] = versions.host_version()
    except PackageNotFoundError:
        return found | {"simpletuner": None, "supported": False, "range": str(versions.supported_range())}
    for name in PACKAGES:
        found[name] = version(name)
    return found | {"supported": versions.is_supported(), "range": str(versions.supported_range())}


def seams() -> dict[str, Any]:
    """What is missing in the installed host, from its source files."""
    from simpletuner_twinflow.host.sources import problems_in_sources

    needed, optional = problems_in_sources()
    return {"seams": {"needed": needed, "optional": optional}}


def configuration(path: Path | None) -> tuple[dict[str, Any] | None, list[str]]:
    """A configuration as `simpletuner train` reads it, keys without dashes; or None and the problems of reading it.

    Args: path: of the file; None for the one that a command without arguments reads in this folder.
    """
    in_folder = "ENV" in os.environ or any(Path("config", f"config{suffix}").exists() for suffix in SUFFIXES)
    if path is None and not in_folder:
        return None, []
    if path is not None and not (path.is_file() and path.suffix in READERS):
        return None, [f"{path} is not a config file: give a .json or .toml file that exists."]
    taken: list[Sequence[str]] = []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if path is None:
                read_configuration(["simpletuner", "train"], taken.append)
            else:
                taken.append(_arguments(path))
    except TwinFlowConfigError as error:  # raised where the host turns values into arguments
        return None, list(error.problems)
    except (OSError, ValueError) as error:
        return None, [f"{path or 'config/'}: {error}"]
    if not taken:
        return None, ["SimpleTuner itself finds no configuration in this folder."]
    return dict(as_mapping(taken[-1])), []


def _arguments(path: Path) -> list[str]:
    """The arguments that the host makes of a config file. Raises: ValueError: It is none."""
    leave_out_torch(None)
    from simpletuner.helpers.configuration.cli_utils import mapping_to_cli_args

    content = READERS[path.suffix](path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no keys and values")
    return mapping_to_cli_args(content)


def examined(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with this configuration would do, and every problem of it."""
    problems: list[str] = []
    try:
        values = checked(given)
    except TwinFlowConfigError as error:
        problems, values = list(error.problems), {}
    options, _ = TwinFlowOptions.read(values)
    effective = {
        PREFIX + name: {"value": value, "from": "config" if PREFIX + name in given else "default"}
        for name, value in options
    }
    report: dict[str, Any] = {"options": effective, "problems": problems, "on": options.enabled}
    if problems or not options.enabled or options.implementation != "paper":
        return report
    config = SimpleNamespace(**HOST_DEFAULTS | {key: _parsed(value) for key, value in {**given, **values}.items()})
    for key in NUMBERS:
        setattr(config, key, int(as_number(getattr(config, key)) or 1))
    options = settled(options, config.model_type)
    flow = predicts_flow(vars(config))
    own_steps = flow and options.target_step_count > 1 and options.time_conditioning == "training_only"
    sampler = SamplerSettings() if own_steps else SamplerSettings(stochastic_ratio=1.0, sigma_max=1.0)
    entries = summary(options, config, sampler.step_times(options.target_step_count), own_steps=own_steps)
    family = str(given.get("model_family"))
    known = family in FAMILIES or family in DIFFUSION_FAMILIES
    entries["family"] = f"{family}: {'supported, see docs/families.md' if known else 'unknown'}"
    added = [EMA_ADDED] * (USE_EMA in values and USE_EMA not in given)
    return report | {"run": entries, "overridden": [*added, *overridden(vars(config), options)]}


def _parsed(value: Any) -> Any:
    """A text of a number, or of true or false, as the host's parser takes it; anything else unchanged."""
    try:
        return json.loads(value.lower()) if isinstance(value, str) else value
    except ValueError:
        return value


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    found, lacking = report["versions"], report["seams"]
    packages = ", ".join(
        f"{name} {found[name]}" for name in (DISTRIBUTION, "simpletuner", "python", *PACKAGES) if found.get(name)
    )
    lines = [packages]
    if not found["supported"]:
        lines.append(f"SimpleTuner {found['simpletuner'] or 'is not installed'}: supported is {found['range']}.")
    lines += [f"missing in the host: {problem}" for problem in lacking["needed"]]
    lines += [f"missing in the host: {problem}; so {lost}" for problem, lost in lacking["optional"].items()]
    if not lacking["needed"] and not lacking["optional"]:
        lines.append("every place of the host that the plugin touches is there")
    if "options" in report:
        given = [
            f"{key} {json.dumps(at['value'], default=dict)}"
            for key, at in report["options"].items()
            if at["from"] == "config"
        ]
        lines.append(f"set: {', '.join(given) or 'no twinflow_* key'}; the others have their defaults")
    if "run" in report:
        lines += [block("a run with this configuration", report["run"]), *report["overridden"]]
    lines += report["problems"]
    if report["problems"]:
        lines.append(
            f"{len(report['problems'])} problem{'s' * (len(report['problems']) > 1)}: the run would be refused."
        )
    elif "on" not in report:
        lines.append("No configuration was examined: give a file, or start it where config/config.json is.")
    else:
        lines.append("The run would start." if report["on"] else "TwinFlow is off in this configuration.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
