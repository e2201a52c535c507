"""Builds the wheel and the sdist of a release, and does with them what a stranger would: installs, runs, tests.

    make dist                    # all stages, in output/dist; ten minutes
    make dist ARGS="built bare"  # these

Environments are made anew under .venv/dist, with the releases of constraints.txt.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

from testbed.digits import write_digits
from testbed.trainer import cpu_environment, demo_config, without_twinflow, write_run

ROOT = Path(__file__).parents[1]
DIST = ROOT / "output/dist"
ENVIRONMENTS = ROOT / ".venv/dist"
UV = [sys.executable, "-m", "uv"]
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}"
WHEEL, SDIST, SBOM = (DIST / f"{NAME}{kind}" for kind in ("-py3-none-any.whl", ".tar.gz", ".cdx.json"))
TOOLS = ("twine", "cyclonedx-bom")
PUBLIC = ("", ".method", ".sampling", ".options", ".comparison", ".cli", ".errors")
# What needs neither a run of the host nor minutes, and reads what an sdist might lack.
QUICK = ("tests/method", "tests/sampling", "tests/test_docs.py", "tests/test_imports.py", "tests/test_options.py")
SAMPLE = """
from simpletuner_twinflow import TwinFlowScheduler
scheduler = TwinFlowScheduler()
scheduler.set_timesteps(4)
print(len(scheduler.timesteps))
"""


class DistError(Exception):
    """A wheel, an sdist or what is made of them is not as it must be; the message says what was found."""


def said(*command: str | Path, cwd: Path = DIST, code: int = 0, limit: int = 900, **environment: str) -> str:
    """Run a command where the repository is not on the path. Returns: all that it prints.

    Raises:
        DistError: It ended with another code.
    """
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    found = subprocess.run(words, cwd=cwd, env=clean | environment, text=True, timeout=limit, check=False, **pipes)
    if found.returncode != code:
        lines = found.stdout.splitlines()[-40:]
        raise DistError(f"{' '.join(words)}: exit {found.returncode}, not {code}\n" + "\n".join(lines))
    return found.stdout


def expect(words: str, text: str) -> None:
    """Raises: DistError: These words are not in the text."""
    if words not in text:
        raise DistError(f"{words!r} is not in what was said:\n{text[-2000:]}")


def environment(name: str, *what: str | Path) -> Path:
    """An environment with these packages and what they need. Returns: the folder of its commands."""
    folder = ENVIRONMENTS / name
    said(*UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin/python"
    said(*UV, "pip", "install", "--quiet", "--python", python, "--constraint", CONSTRAINTS, *what, cwd=ROOT)
    return folder / "bin"


def built() -> None:
    """The sdist, and the wheel from it; twine finds nothing to say against either."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    said(*UV, "build", "--quiet", "--out-dir", DIST, ROOT)
    found = {path.name for path in DIST.iterdir()} - {".gitignore"}
    if found != {WHEEL.name, SDIST.name}:
        raise DistError(f"made {sorted(found)}")
    said(environment("tools", *TOOLS) / "twine", "check", "--strict", WHEEL, SDIST)
    if (ROOT / ".git").exists():  # an sdist makes a release too, and has none
        complete({*said("git", "ls-files", cwd=ROOT).splitlines()})


def complete(tracked: set[str]) -> None:
    """Raises: DistError: The sdist lacks one of these files."""
    with tarfile.open(SDIST) as archive:
        packed = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    if lacking := {name for name in tracked - packed if (ROOT / name).is_file()}:
        raise DistError(f"the sdist lacks {sorted(lacking)}")


def wheel() -> None:
    """What the wheel must hold, and what it must not."""
    with zipfile.ZipFile(WHEEL) as archive:
        names = {*archive.namelist()}
        declared = ConfigParser(delimiters=("=",))
        declared.optionxform = str  # type: ignore[assignment, method-assign]
        declared.read_string(archive.read(f"{NAME}.dist-info/entry_points.txt").decode())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "simpletuner_twinflow").rglob("*.py")}
    needed = sources | {f"simpletuner_twinflow.{kind}" for kind in ("pth", "start")}
    needed |= {"simpletuner_twinflow/py.typed", f"{NAME}.dist-info/licenses/LICENSE"}
    if lacking := needed - names:
        raise DistError(f"the wheel lacks {sorted(lacking)}")
    package = {"simpletuner_twinflow", "simpletuner_twinflow.pth", "simpletuner_twinflow.start", f"{NAME}.dist-info"}
    if more := {name.split("/")[0] for name in names} - package:
        raise DistError(f"the wheel has {sorted(more)} beside the package")
    wanted = PROJECT["entry-points"] | {"console_scripts": PROJECT["scripts"]}
    if {group: dict(declared[group]) for group in declared.sections()} != wanted:
        raise DistError("the wheel's entry points are not those of pyproject.toml")


def host() -> None:
    """With the host alone: the commands, the public modules, a run of the host that does not ask for TwinFlow."""
    commands = environment("host", f"{PROJECT['name']}[host] @ {WHEEL.as_uri()}")
    _public(commands)
    expect(f"{PROJECT['name']} {PROJECT['version']}", said(commands / "simpletuner-twinflow", "--version"))
    folder = _folder("doctor")
    shutil.copy(ROOT / "sample_configs/sd3-twinflow.json", folder / "config.json")
    data = folder / "config/multidatabackend.json"
    data.parent.mkdir()
    data.write_text("[]", encoding="utf-8")
    report = said(commands / "simpletuner-twinflow", "doctor", "config.json", cwd=folder)
    expect("every place of the host that the plugin touches is there", report)
    off = _folder("off")
    write_digits(off / "digits", limit=16)
    short = {"max_train_steps": 2, "checkpointing_steps": 2, "validation_disable": True, "report_to": "none"}
    write_run(off, without_twinflow(demo_config(**short)), off / "digits")
    variables = cpu_environment() | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    said(commands / "simpletuner", "train", cwd=off, **variables, PYTHONPATH=str(ROOT / "testbed/cpu"))
    if not list((off / "output").rglob("*.safetensors")):
        raise DistError(f"the host's run without TwinFlow wrote no weights: {off}")


def sbom() -> None:
    """What the wheel and the host bring into an environment, as CycloneDX has it."""
    python = ENVIRONMENTS / "host/bin/python"
    tool = ENVIRONMENTS / "tools/bin/cyclonedx-py"
    about = ("--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--validate")
    said(tool, "environment", *about, "--output-format", "JSON", "--output-file", SBOM, python)
    expect('"simpletuner"', SBOM.read_text(encoding="utf-8"))


def bare() -> None:
    """Without the host: the sampler works, and the doctor says what is missing."""
    commands = environment("bare", WHEEL)
    _public(commands)
    expect("4", said(commands / "python", "-c", SAMPLE))
    report = said(commands / "simpletuner-twinflow", "doctor", code=1)
    expect("SimpleTuner is not installed", report)
    expect("simpletuner-twinflow[host]", report)


def sdist() -> None:
    """Unpacked elsewhere: it sets itself up, passes its linter and a quick selection of its tests."""
    folder = _folder("sdist")
    with tarfile.open(SDIST) as archive:
        archive.extractall(folder, filter="data")
    root = folder / NAME
    said("make", "setup", "lint", cwd=root)
    text = said(root / ".venv/bin/python", "-m", "pytest", "-n", "1", "-q", "-m", "not host", *QUICK, cwd=root)
    expect(" passed", text)
    print(f"  {text.splitlines()[-1]}")


def _public(commands: Path) -> None:
    """The public modules are imported, and the command says how it is used."""
    said(commands / "python", "-c", "; ".join(f"import simpletuner_twinflow{name}" for name in PUBLIC))
    expect("doctor", said(commands / "simpletuner-twinflow", "--help"))


def _folder(name: str) -> Path:
    """An empty folder of a stage."""
    folder = ENVIRONMENTS / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


STAGES: dict[str, Callable[[], None]] = {each.__name__: each for each in (built, wheel, host, sbom, bare, sdist)}


def main() -> int:
    """Returns: 1 where a stage did not come to what it must."""
    for name in sys.argv[1:] or STAGES:
        began = time.monotonic()
        print(f"{name}: {(STAGES[name].__doc__ or '').partition(chr(10))[0]}", flush=True)
        try:
            STAGES[name]()
        except DistError as error:
            print(f"  FAILED: {error}")
            return 1
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
