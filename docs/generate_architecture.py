"""Writes the table of seams into docs/architecture.md from the hooks' declarations; a test holds the two together.

python docs/generate_architecture.py (in the environment that has SimpleTuner)
"""

from itertools import groupby
from pathlib import Path

from simpletuner_twinflow.host.seams import Seam, all_hooks
from simpletuner_twinflow.host.settings import preflight

PAGE = Path(__file__).with_name("architecture.md")
BEGIN, END = "<!-- seams -->\n", "<!-- end of seams -->\n"
HEADING = "| place in the host | how it is touched |\n|---|---|\n"
EARLY = (
    "The early check (`host/settings/preflight.py`) runs in a process of its own, which trains nothing; there it "
    "stands in for the modules that import torch (`log_format`, the field registry, the parser)."
)


def render() -> str:
    """The page with the table of now."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    parts = []
    for module, hooks in groupby(sorted(all_hooks(), key=lambda pair: pair[0]), key=lambda pair: pair[0]):
        parts.append(f"### {module}\n")
        for _, hook in hooks:
            summary = (hook.__doc__ or "").partition("\n")[0]
            without = f" Optional: without it {hook.lost}." if hook.lost else ""
            file = hook.__module__.removeprefix("simpletuner_twinflow.").replace(".", "/")
            parts.append(f"`{file}.py: {hook.__name__}`: {summary}{without}\n")
            parts.append(HEADING + "".join(map(_row, hook.seams)))
    parts += ["### simpletuner.cli\n", f"{EARLY}\n", HEADING + "".join(map(_row, preflight.SEAMS))]
    return head + BEGIN + "\n" + "\n".join(parts) + END + rest.partition(END)[2]


def _row(seam: Seam) -> str:
    place = f"`{seam.path}` of {seam.module}" if seam.module else f"`{seam.path}`"
    return f"| {place} | {seam.touch} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
