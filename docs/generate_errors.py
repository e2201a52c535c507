"""Writes docs/errors.md, every error and every line on what is overridden, from the sources; a test compares.

python docs/generate_errors.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from simpletuner_twinflow.host.settings import conflict_rows, context_parallel, deepspeed_config, first_frame

PAGE = Path(__file__).with_name("errors.md")
PACKAGE = Path(__file__).parents[1] / "simpletuner_twinflow"
HEADING = """# Every error

What the plugin refuses and what it says, from its sources by `docs/generate_errors.py`; … stands for what a message
fills in. A message names the key or file, the value found and the way out; a configuration's come all at once, and
`simpletuner-twinflow doctor` says them without a run. By symptom: [troubleshooting.md](troubleshooting.md). Families:
[families.md](families.md), whose reasons stand there.
"""
CHECKING = ("conflicts", "lycoris_config", "deepspeed_config", "context_parallel", "first_frame")
RAISED = (
    "TwinFlowError",
    "TwinFlowConfigError",
    "CheckpointError",
    "OtherRunError",
    "DataConfigError",
    "HostVersionError",
)
ROWS = {
    "In any run": conflict_rows.HOST_CONFLICTS,
    "In a full fine-tune": conflict_rows.FULL_CONFLICTS + conflict_rows.EMA_CONFLICTS,
    "In a LoRA": conflict_rows.ADAPTER_CONFLICTS,
    "In a model that predicts epsilon or v": conflict_rows.DIFFUSION_CONFLICTS,
    "By the launcher": conflict_rows.LAUNCHER_CONFLICTS,
    "Under FSDP 2": conflict_rows.SHARDED_CONFLICTS,
    "Under DeepSpeed": deepspeed_config.ROWS,
    "With `context_parallel_size`": context_parallel.CONTEXT_CONFLICTS + context_parallel.DRAWN,
    "In a dataset": conflict_rows.DATASET_CONFLICTS,
    "In a dataset of `super-i2v`": first_frame.DATASET_CONFLICTS,
    "In a dataset, under FSDP 2": conflict_rows.SHARDED_DATASET_CONFLICTS,
    "In a dataset of a family that makes sound too": conflict_rows.SOUND_CONFLICTS,
}
CHECKS = ("options.py", *(f"host/settings/{name}.py" for name in CHECKING))
SAID = ("host/settings/overridden.py",)
ROOMS = {
    "In your own code": ("method", "sampling", "quality", "declaration.py"),
    "Of checkpoints and files": ("host/checkpoints",),
    "While training and drawing": ("host/training", "host/drawing", "host/seams.py", "host/run.py"),
    "Of a configuration's files": ("host/settings",),
    "Of `simpletuner-twinflow compare`": ("comparison", "cli"),
}


def render() -> str:
    """The page as Markdown."""
    parts = [HEADING, "## Keys of SimpleTuner that exclude TwinFlow\n"]
    for title, rows in ROWS.items():
        parts.append(f"{title}:\n\n| key | why | way out |\n|---|---|---|")
        parts.append("\n".join(f"| `{row.key}` | {row.reason} | {row.way_out} |" for row in rows) + "\n")
    parts.append("## Combinations\n\n" + _listed(text for file in CHECKS for text in _yielded(PACKAGE / file)))
    parts.append(
        "## Overridden, and said once\n\n" + _listed(text for file in SAID for text in _yielded(PACKAGE / file))
    )
    for title, places in ROOMS.items():
        files = [file for place in places for file in sorted(_files(PACKAGE / place))]
        parts.append(f"## {title}\n\n" + _listed(text for file in files for text in _raised(file)))
    return "\n".join(parts)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [*place.rglob("*.py")]


def _listed(texts: Iterator[str]) -> str:
    return "\n".join(f"- {text}" for text in dict.fromkeys(texts) if text.strip("… .")) + "\n"


def _raised(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args:
            yield _text(node.args[0])


def _yielded(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Yield) and node.value is not None:
            yield _text(node.value)


def _text(node: ast.expr) -> str:
    """What a message says, with … for what is only known in a run."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(_text, values))
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _text(left) + _text(right)
    return "…"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
