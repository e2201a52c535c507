"""Real installs of several hosts: each trains by TwinFlow, resumes, and trains without it, by tests of whole runs.

    make matrix                           # all of them, and docs/hosts.md; five minutes a row
    make matrix ARGS="4.9.3 python-3.13"  # these

Each row gets an environment of its own under .venv/matrix. A host whose tests fail has its line all the same. Another
Python has to be installed, so that `uv python find 3.13` finds it.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from simpletuner_twinflow.host.versions import supported_range

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv" / "matrix"
RESULTS = ENVIRONMENTS / "results.json"
PAGE = ROOT / "docs" / "hosts.md"
NEWEST = "newest"


@dataclass(frozen=True)
class Row:
    """An environment: the host, and what is not as in constraints.txt."""

    host: str  # its version, or NEWEST
    companions: tuple[str, ...] = ()  # requirements
    python: str = ""  # a version; empty for the one that runs this


ROWS = {
    # With what came out after it this host does not start itself: a release of a companion that it does with.
    "4.9.3": Row("4.9.3", ("transformers==5.20.0",)),
    "4.10.0": Row("4.10.0"),
    "4.10.1": Row("4.10.1"),  # constraints.txt has the newest diffusers of all that the host admits
    "python-3.13": Row("4.10.1", python="3.13"),
    "diffusers-0.40.0": Row("4.10.1", ("diffusers==0.40.0",)),  # the oldest that the host admits
    NEWEST: Row(NEWEST),
}
# A documented run and its resume, one with all that TwinFlow has, the flag off with the plugin and without, and the
# plugin switched off.
RUNS = ("seed_lora", "adversarial_lora", "off_with_plugin", "off_without_plugin", "disabled")
FILES = ("tests/runs/test_off.py", "tests/runs/test_training.py")
INTRO = """# Which SimpleTuner

Written by `make matrix`: real installs, each with these whole runs of a tiny SD3, from config files, with the tests of
`tests/runs` that look at them: a LoRA by the documented configuration and its resume, one with the adversarial branch,
the flag off with the plugin against the same without it, to the bit, and the plugin switched off. Python 3.13
and the oldest diffusers that 4.10.1 admits, 0.40.0, have a row with it; 0.42.1 was the registry's newest on
27 November 2026.
"""
OUTRO = """
What an older host lacks is a problem of `simpletuner-twinflow doctor` and an error at the start of a run that needs it,
and a line of the log of others. All else in this documentation, the other families above all, was tried with the newest
host alone.

4.8.0 and 4.7.1 were tried and are refused. On 4.8.0 a run without TwinFlow is untouched, but one with it logs none of
its terms, and the documented one did not end; 4.7.1 was not tried to its end. Older ones lack places that the plugin
needs.

## What to install beside it

SimpleTuner bounds neither torch nor transformers from above, and **with what a registry has today, none of the hosts of
this page starts, with TwinFlow or without**. All that is here was tried with

    pip install simpletuner simpletuner_twinflow-0.2.0-py3-none-any.whl "torch<2.14" "transformers<5.21"

or in a clone, `make setup`, or into an environment of your own

    pip install simpletuner . "torch<2.14" "transformers<5.21"

(`uv pip install` takes the same words; [walk.md](walk.md) goes by it). For 4.9.3 write `simpletuner==4.9.3` and
`"transformers==5.20.0"`, for 4.10.0 `simpletuner==4.10.0`. Either bound is needed: SimpleTuner 4.10.1, with the plugin
switched off, up to its first batch, on 27 November 2026:

| torch | torchvision | torchaudio | transformers | starts |
|---|---|---|---|---|
| 2.13.0 | 0.28.0 | 2.11.0 | 5.20.2 | yes |
| 2.14.1 | 0.29.2 | 2.11.0 | 5.20.2 | yes |
| 2.15.0 | 0.29.2 | 2.11.0 | 5.20.2 | no: "PyTorch and TorchAudio were compiled with different CUDA versions" |
| 2.13.0 | 0.28.0 | 2.11.0 | 5.21.1 | yes |
| 2.13.0 | 0.28.0 | 2.11.0 | 5.22.2 | yes |
| 2.13.0 | 0.28.0 | 2.11.0 | 5.23.0 | no: "cannot import name 'Qwen3VLCausalLMOutputWithPast'" |
| 2.13.0 | 0.28.0 | 2.11.0 | 5.24.0 | no: the same |

So 4.10.1 starts with torch below 2.15 and transformers below 5.23; the tighter bounds are those of every test. 4.8.0
and 4.7.1 do not start with transformers 5.24 either.
"""


@dataclass
class Result:
    """What came of a row."""

    version: str
    python: str
    companions: str
    passed: int
    failed: list[str]
    lacking: list[str]


def install(name: str) -> Path:
    """An environment with a row's host and the plugin. Returns: its interpreter."""
    row, folder = ROWS[name], ENVIRONMENTS / name
    python = folder / "bin" / "python"
    host = "simpletuner" if row.host == NEWEST else f"simpletuner=={row.host}"
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    constraints = ENVIRONMENTS / f"{name}.txt"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints.write_text("\n".join(constrained(row, lines)), encoding="utf-8")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", row.python or sys.executable, folder], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(constraints)]
    subprocess.run([*install, host, *row.companions, "--editable", f"{ROOT}[demo,test]"], check=True)
    return python


def constrained(row: Row, lines: list[str]) -> list[str]:
    """The lines of constraints.txt but for what a row sets itself, or has its newest host ask for."""
    own = {re.split(r"\W", requirement)[0] for requirement in ("simpletuner", *row.companions)}
    own |= {"diffusers", "accelerate", "peft"} if row.host == NEWEST else set()
    return [line for line in lines if line.split("==")[0] not in own]


def tried(name: str) -> Result:
    """The tests of a row's runs."""
    python = install(name)
    log = ENVIRONMENTS / f"{name}.log"
    command = [str(python), "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *FILES, "--recipes", *RUNS]
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(encoding="utf-8")
    asked = (
        "import json; from simpletuner_twinflow.host import doctor as d; print(json.dumps([d.installed(), d.seams()]))"
    )
    answer = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT)
    installed, seams = json.loads(answer.stdout.splitlines()[-1])
    return Result(
        installed["simpletuner"],
        installed["python"],
        ", ".join(f"{name} {installed[name]}" for name in ("diffusers", "transformers", "accelerate", "peft")),
        sum(map(int, re.findall(r"(\d+) passed", text))),
        re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", text, re.MULTILINE)
        or ([] if " passed" in text else ["no test ran"]),
        [*seams["needed"], *dict.fromkeys(seams["optional"].values())],
    )


def render(results: list[Result]) -> str:
    """The page."""
    rows = ["", "| SimpleTuner | Python | with | tests passed | failed | what it lacks |", "|---|---|---|---|---|---|"]
    for each in results:
        failed, lacking = ("<br>".join(texts) or "none" for texts in (each.failed, each.lacking))
        rows.append(f"| {each.version} | {each.python} | {each.companions} | {each.passed} | {failed} | {lacking} |")
    return INTRO + "\n".join([*rows, "", f"Supported: `simpletuner{supported_range()}`.", ""]) + OUTRO


def main() -> int:
    """Returns: 1 where a test of a row failed."""
    results = {}
    if RESULTS.exists():
        results = {name: Result(**found) for name, found in json.loads(RESULTS.read_text(encoding="utf-8")).items()}
    for name in sys.argv[1:] or ROWS:
        print(f"{name}: installing, then whole runs; what they print is in {ENVIRONMENTS / name}.log", flush=True)
        result = tried(name)
        print(f"  {result.version}: {result.passed} passed, {len(result.failed)} failed", flush=True)
        # The newest host is most often one that has a row: its line is that one's.
        results[result.version if name == NEWEST else name] = result
        RESULTS.write_text(json.dumps({name: asdict(each) for name, each in results.items()}), encoding="utf-8")
    found = sorted(results.values(), key=lambda it: ([*map(int, it.version.split("."))], it.python, it.companions))
    PAGE.write_text(render(found), encoding="utf-8")
    return int(any(each.failed for each in found))


if __name__ == "__main__":
    sys.exit(main())
