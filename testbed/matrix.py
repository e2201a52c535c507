"""Real installs of several hosts: each trains by TwinFlow, resumes, and trains without it, by tests of whole runs.

    make matrix                       # all of them, and docs/hosts.md; five minutes a version
    make matrix ARGS="4.9.3 newest"   # these

Each version gets an environment of its own under .venv/matrix. A host whose tests fail has its line all the same.
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
# With what came out after them these hosts do not start themselves: a release of a companion that they do with. The
# others have constraints.txt's.
COMPANIONS = {"4.9.3": ("transformers==5.20.0",)}
VERSIONS = (*COMPANIONS, "4.10.0", "4.10.1", NEWEST)
# A documented run and its resume, one with all that TwinFlow has, the flag off with the plugin and without, and the
# plugin switched off.
RUNS = ("seed_lora", "adversarial_lora", "off_with_plugin", "off_without_plugin", "disabled")
FILES = ("tests/runs/test_off.py", "tests/runs/test_training.py")
INTRO = """# Which SimpleTuner

Written by `make matrix`: real installs, each with these whole runs of a tiny SD3, from config files, with the tests of
`tests/runs` that look at them: a LoRA by the documented configuration and its resume, one with the adversarial branch,
the flag off with the plugin against the same without it, to the bit, and the plugin switched off.
"""
OUTRO = """
What an older host lacks is a problem of `simpletuner-twinflow doctor` and an error at the start of a run that needs it,
and a line of the log of others. All else in this documentation, the other families above all, was tried with the newest
host alone.

4.8.0 and 4.7.1 were tried and are refused. On 4.8.0 a run without TwinFlow is untouched, but one with it logs none of
its terms, and the documented one did not end; 4.7.1 was not tried to its end. Older ones lack places that the plugin
needs. **None of these SimpleTuners starts with transformers 5.24**, with which they install today, with TwinFlow or
without ("cannot import name 'Qwen3VLCausalLMOutputWithPast'"); they do with 5.20: `pip install "transformers<5.21"`.
"""


@dataclass
class Result:
    """What came of a version."""

    version: str
    companions: str
    passed: int
    failed: list[str]
    lacking: list[str]


def install(wanted: str) -> Path:
    """An environment with this host and the plugin. Returns: its interpreter."""
    folder = ENVIRONMENTS / wanted
    python = folder / "bin" / "python"
    host = "simpletuner" if wanted == NEWEST else f"simpletuner=={wanted}"
    ours = {re.split(r"\W", line)[0] for line in ("simpletuner", *COMPANIONS.get(wanted, ()))}
    if wanted == NEWEST:
        ours |= {"diffusers", "accelerate", "peft"}  # what it asks for itself
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    constraints = ENVIRONMENTS / f"{wanted}.txt"
    constraints.write_text("\n".join(line for line in lines if line.split("==")[0] not in ours), encoding="utf-8")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(constraints)]
    subprocess.run([*install, host, *COMPANIONS.get(wanted, ()), "--editable", f"{ROOT}[demo,test]"], check=True)
    return python


def tried(wanted: str) -> Result:
    """The tests of this host's runs."""
    python = install(wanted)
    log = ENVIRONMENTS / f"{wanted}.log"
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
        ", ".join(f"{name} {installed[name]}" for name in ("diffusers", "transformers", "accelerate", "peft")),
        sum(map(int, re.findall(r"(\d+) passed", text))),
        re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", text, re.MULTILINE)
        or ([] if " passed" in text else ["no test ran"]),
        [*seams["needed"], *dict.fromkeys(seams["optional"].values())],
    )


def render(results: list[Result]) -> str:
    """The page."""
    rows = ["", "| SimpleTuner | with | tests passed | failed | what it lacks |", "|---|---|---|---|---|"]
    for each in results:
        failed, lacking = ("<br>".join(texts) or "none" for texts in (each.failed, each.lacking))
        rows.append(f"| {each.version} | {each.companions} | {each.passed} | {failed} | {lacking} |")
    return INTRO + "\n".join([*rows, "", f"Supported: `simpletuner{supported_range()}`.", ""]) + OUTRO


def main() -> int:
    """Returns: 1 where a test of a version failed."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for wanted in sys.argv[1:] or VERSIONS:
        print(f"SimpleTuner {wanted}: installing, then whole runs; what they print is in {ENVIRONMENTS / wanted}.log")
        result = tried(wanted)
        print(f"  {result.version}: {result.passed} passed, {len(result.failed)} failed")
        before[result.version] = asdict(result)
        RESULTS.write_text(json.dumps(before), encoding="utf-8")
    results = [Result(**before[version]) for version in sorted(before, key=lambda it: [*map(int, it.split("."))])]
    PAGE.write_text(render(results), encoding="utf-8")
    return int(any(each.failed for each in results))


if __name__ == "__main__":
    sys.exit(main())
