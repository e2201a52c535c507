"""Peak memory of a training step in the host against plain training's, counted tensor by tensor.

python -m benchmarks.cost.memory [--batch 4] [--kinds full LoRA] [--output output/benchmarks/memory]; five minutes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.cost.__main__ import run_config
from benchmarks.cost.peak import FILE
from benchmarks.cost.ways import ADVERSARIAL, KINDS, PLAIN, prepared
from benchmarks.in_host import watched
from testbed.forkserver import ForkServer
from testbed.trainer import ROOT, write_run

WAYS = (  # of benchmarks.cost
    PLAIN,
    "K = 1, no guidance",
    "K = 1, guidance 2 (default)",
    "adversarial, guidance 2",
    ADVERSARIAL,
)
LIMIT = 900
STEPS = 12


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/memory")
    arguments = parser.parse_args()
    arguments.steps = STEPS
    folder, console = arguments.output.resolve(), Console()
    server = prepared(folder)
    lines = [
        "| | gradient checkpointing | between steps, MB | peak, MB | above plain | of the peak alone |",
        "|---|---|---|---|---|---|",
    ]
    for kind in arguments.kinds:
        for checkpointing in (False, True):
            plain = None
            for name in WAYS:
                config = run_config(folder, kind, name, arguments) | {"gradient_checkpointing": checkpointing}
                if name == PLAIN:
                    config["use_ema"] = False
                before, peak = measure(server, folder / "run", config, folder / "digits")
                plain = plain or (before, peak)
                above = f"{peak / plain[1] - 1:+.1%}"
                beyond = f"{(peak - before) / (plain[1] - plain[0]) - 1:+.1%}"
                cells = [
                    f"{kind}, {name}",
                    "on" if checkpointing else "off",
                    f"{before / 1e6:.1f}",
                    f"{peak / 1e6:.1f}",
                ]
                lines.append(f"| {' | '.join([*cells, above, beyond])} |")
                console.print(lines[-1], soft_wrap=True)
    server.close()
    (folder / "memory.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print(Markdown("\n".join(lines)))


def measure(server: ForkServer, folder: Path, config: dict[str, Any], images: Path) -> tuple[int, int]:
    """Run the host once. Returns: bytes of all tensors before a step, and at its peak, of the step with the largest.

    Raises:
        RuntimeError: The run failed; its log's end is in the message.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_run(folder, config, images)
    peaks = folder / "peak.txt"
    watched(server, folder, {FILE: str(peaks)}, "benchmarks.cost.peak:watch", LIMIT)
    found = [tuple(map(int, line.split())) for line in peaks.read_text(encoding="utf-8").splitlines()]
    return max(found, key=lambda it: it[1])


if __name__ == "__main__":
    main()
