"""From an empty folder to a picture, by the commands of docs/first-run.md, with the time of each.

    make walk  # some minutes, and four gigabytes from the package registry

The wheel and the site's download are laid into a new folder; environments, uv's cache among them, are made anew. What
was run and said goes into docs/walk.md as it goes. It fails where a step does, or where all took over 15 minutes.
"""

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from PIL import Image

from testbed.dist import WHEEL
from testbed.first_run import DOWNLOAD, ROOT, named_boxes, shell_lines

PAGE = ROOT / "docs/walk.md"
PICTURE = ROOT / "docs/images/walk.png"
LIMIT_SECONDS = 15 * 60.0
WIDTH = 118
ONE_OF_MANY = "One picture of one seed; the quality lines above are of 64."
COMPANIONS = ("torch", "torchvision", "torchaudio", "diffusers", "transformers", "accelerate", "peft")
PROGRESS = re.compile(r"Steps: +\d+%")
NOISE = re.compile(r"\x1b\[[0-9;]*m")
# The picture once more, and which modules that took.
IMPORTED = """cat > imported.py <<'END'
import runpy, sys
runpy.run_path("draw.py")
names = [name for name in sys.modules if name.startswith("simpletuner")]
print(len(sys.modules), "modules, of these of SimpleTuner or the plugin:", names)
END
stock/bin/python imported.py"""


class WalkError(Exception):
    """A step did not come to what it must; the message says what was found."""


@dataclass(frozen=True)
class Step:
    """A command of the walk, and what it must come to."""

    title: str
    command: str
    shown: str = ""  # of what it says, the lines with a match; the progress lines by their last alone
    code: int = 0
    says: str = ""


@dataclass(frozen=True)
class Taken:
    """A step that was gone."""

    step: Step
    seconds: float
    said: str  # the lines shown


def steps() -> list[Step]:
    """The walk, with the commands that the page has."""
    environment, install, unpack, pictures, _ = shell_lines("The folder")
    stock, code, draw = shell_lines("Draw with diffusers alone")
    doctor = "simpletuner-twinflow doctor"
    return [
        Step("An environment", environment),
        Step("The wheel and SimpleTuner", install),
        Step("The base and the config", unpack),
        Step("200 pictures with their prompts", pictures),
        Step("The doctor", doctor, r"^simpletuner-|^ +(draws|trains|guidance|in all) |would", says="would start"),
        Step(
            "The doctor, a key with a slip",
            f"sed s/step_count/step_cout/ config/config.json > slip.json; {doctor} slip.json",
            "step_cout|problem",
            code=1,
            says="twinflow_target_step_cout is not a TwinFlow key",
        ),
        Step(
            "The doctor, TwinFlow off",
            f"""sed '/"twinflow_enabled"/s/true/false/' config/config.json > off.json; {doctor} off.json""",
            "TwinFlow is off",
            says="TwinFlow is off in this configuration",
        ),
        Step(
            "Train",
            "simpletuner train",
            r"TwinFlow [\d.]+ is on|^ +(draws|trains|guidance|adapts) |Steps: +\d|TwinFlow quality",
            says="TwinFlow quality at step 200",
        ),
        Step("An environment with diffusers alone", stock),
        Step("The model card's code", f"{code}; cat draw.py", "."),
        Step("Draw", draw),
        Step("What was imported to draw", IMPORTED, "modules, of these", says="or the plugin: []"),
    ]


def gone(step: Step, folder: Path, limit: float) -> Taken:
    """Run a step in the walk's folder, in its environment once there is one.

    Raises:
        WalkError: It ended with another code, did not end within `limit` seconds or did not say what it must.
    """
    activate = ". venv/bin/activate; " if (folder / "venv").exists() else ""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    variables = {key: value for key, value in os.environ.items() if key not in hidden and "TWINFLOW" not in key}
    variables["PATH"] = f"{sys.base_prefix}/bin{os.pathsep}{variables['PATH']}"  # the reader's python3.12
    variables |= {"WANDB_MODE": "offline", "UV_CACHE_DIR": str(folder / "cache"), "COLUMNS": str(WIDTH)}
    began = time.monotonic()
    try:
        ended = subprocess.run(
            ["bash", "-c", activate + step.command],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WalkError(f"{step.title}: not at its end when the walk's 15 minutes were over") from error
    seconds = time.monotonic() - began
    text = ended.stdout.decode(errors="replace")
    if ended.returncode != step.code or step.says not in " ".join(text.split()):
        raise WalkError(f"{step.title}: exit {ended.returncode}, {step.says!r} expected in\n{text[-3000:]}")
    return Taken(step, seconds, shortened(text, step.shown, folder))


def shortened(text: str, shown: str, folder: Path) -> str:
    """The lines with a match, those that go on after them, and of a progress line how it ended.

    Args:
        text: all that was said.
        shown: a regular expression; empty shows nothing.
        folder: the walk's, whose path is left out.
    """
    lines: list[str] = []
    going_on = False
    for whole in NOISE.sub("", text).replace(f"{folder}/", "").splitlines() if shown else ():
        line = whole.rstrip().rpartition("\r")[2]
        going_on = bool(re.search(shown, line)) or (going_on and line.startswith("    "))
        if going_on:
            if PROGRESS.search(line) and lines and PROGRESS.search(lines[-1]):
                lines.pop()
            lines.append(line)
    wrapped = (textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) or [""] for line in lines)
    return "\n".join(itertools.chain(*wrapped))


def versions(folder: Path) -> list[str]:
    """What the walk installed, as far as the page names it."""
    freeze = [str(folder / "venv/bin/uv"), "pip", "freeze", "--python", str(folder / "venv/bin/python")]
    found = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    installed = dict(line.split("==") for line in found.splitlines() if "==" in line)
    return [f"{name} {installed[name]}" for name in ("simpletuner", *COMPANIONS)]


def render(taken: list[Taken], installed: list[str], total: float | None) -> str:
    """The page. Args: installed: empty before it is known; total: seconds, None before the walk's end."""
    end = f"**{minutes(total)} in all**" if total is not None else "The walk is not at its end"
    machine = f"{date.today():%-d %B %Y}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    head = f"""# From an empty folder to a picture

Written by `make walk`, by the commands of [first-run.md](first-run.md): the wheel and the site's download lie in a new
folder, all else is made or comes from the package registry, with no cache. {end}; over fifteen minutes it would have
failed.

{", ".join([machine, *installed])}.

| step | seconds |
|---|---|
"""
    rows = [f"| {each.step.title} | {each.seconds:.0f} |\n" for each in taken]
    return head + "".join(rows) + "".join(section(each) for each in taken)


def section(taken: Taken) -> str:
    """A step of the page."""
    step = taken.step
    code = f"\nExit code {step.code}.\n" if step.code else ""
    said = f"\n```text\n{taken.said}\n```\n" if taken.said else ""
    return f"\n## {step.title}\n\n```sh\n{step.command}\n```\n{said}{code}"


def minutes(seconds: float) -> str:
    """As one says it."""
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def walk(folder: Path) -> None:
    """All steps, and the page as it goes. Raises: WalkError."""
    shutil.copy(WHEEL, folder)
    shutil.copy(ROOT / "output/site" / DOWNLOAD, folder)
    (folder / "pictures.py").write_text(named_boxes()["pictures.py"], encoding="utf-8")
    taken: list[Taken] = []
    installed: list[str] = []
    began = time.monotonic()
    for step in steps():
        print(f"{step.title}: {step.command}", flush=True)
        taken.append(gone(step, folder, LIMIT_SECONDS - (time.monotonic() - began)))
        print(f"  {taken[-1].seconds:.0f} s", flush=True)
        if step.title == "The wheel and SimpleTuner":
            installed = versions(folder)
        PAGE.write_text(render(taken, installed, None), encoding="utf-8")
    total = time.monotonic() - began
    if total > LIMIT_SECONDS:
        raise WalkError(f"took {minutes(total)}, over fifteen minutes")
    with Image.open(folder / "output.png") as drawn:
        drawn.resize((256, 256), Image.Resampling.NEAREST).save(PICTURE)
    place = PICTURE.relative_to(PAGE.parent).as_posix()
    picture = f"\n## The picture\n\n{ONE_OF_MANY}\n\n![{named_prompt()}, four times as large]({place})\n"
    PAGE.write_text(render(taken, installed, total) + picture, encoding="utf-8")
    print(f"{minutes(total)} in all: {PAGE.relative_to(ROOT)}")


def named_prompt() -> str:
    """What the picture shows, by the page's config."""
    found = re.search(r'"validation_prompt": "(.*?)"', named_boxes()["config/config.json"])
    return found[1] if found else "the picture"


def main() -> int:
    """Returns: 1 where the walk did not come to its end."""
    folder = Path(tempfile.mkdtemp(prefix="walk-"))
    try:
        walk(folder)
    except WalkError as error:
        print(f"FAILED in {folder}: {error}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
