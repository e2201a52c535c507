"""How a step's cost grows with estimate order, batch, accumulation and tokens, against plain training's beside it.

python -m benchmarks.cost.growth [--repeats 2] [--kind full] [--output output/benchmarks/growth]; a quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.cost.__main__ import run_config, step_seconds
from benchmarks.cost.ways import KINDS, PLAIN, prepared
from simpletuner_twinflow.method.cost import passes, step_ratio
from simpletuner_twinflow.options import TwinFlowOptions
from testbed.digits import write_digits
from testbed.trainer import ROOT

OURS = "K = 1, guidance 2 (default)"
ORDER, TOKENS = "twinflow_estimate_order", "resolution"
SIDE = "side of a picture, px"
AXES: dict[str, dict[str, tuple[int, ...]]] = {  # by title: a key of the host's, its values
    "estimate order": {ORDER: (1, 2, 3)},
    "batch": {"train_batch_size": (1, 2, 4, 8, 16)},
    "accumulated batches": {"gradient_accumulation_steps": (1, 2, 4)},
    SIDE: {TOKENS: (64, 96, 128)},
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--kind", choices=[*KINDS], default="full")
    parser.add_argument("--axes", nargs="+", choices=[*AXES], default=[*AXES], metavar="AXIS")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/growth")
    arguments = parser.parse_args()
    arguments.batch, arguments.steps = 4, 4
    folder, console = arguments.output.resolve(), Console()
    server = prepared(folder)
    for side in AXES[SIDE][TOKENS]:
        write_digits(folder / f"digits-{side}", limit=64)
    found: dict[str, list[tuple[int, float, float, float]]] = {title: [] for title in arguments.axes}
    lines = ["| | plain step, s | ours, s | x plain | by passes |", "|---|---|---|---|---|"]
    for title in found:
        [(key, values)] = AXES[title].items()
        for value in values:
            pairs = []
            for _ in range(arguments.repeats):
                pair = []
                for way in (PLAIN, OURS):
                    config = run_config(folder, arguments.kind, way, arguments) | _changed(key, value, way)
                    side = config["resolution"]  # the host keeps what it has made of pictures beside them and the run
                    pair.append(step_seconds(server, folder / f"run-{side}", config, folder / f"digits-{side}"))
                pairs.append(pair)
            plain, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(mine / other for other, mine in pairs)
            counted = _counted(arguments.kind, value if key == ORDER else 2)
            found[title].append((value, plain, ours, ratio))
            lines.append(f"| {title} {value} | {plain:.2f} | {ours:.2f} | {ratio:.2f} | {counted:.2f} |")
            console.print(lines[-1], soft_wrap=True)
    server.close()
    (folder / "growth.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(found, folder / "growth.png")
    console.print(Markdown("\n".join(lines)))


def _changed(key: str, value: int, way: str) -> dict[str, Any]:
    return {} if key == ORDER and way == PLAIN else {key: value}


def _counted(kind: str, order: int) -> float:
    options, _ = TwinFlowOptions.read({"twinflow_guidance_reference": "base", ORDER: order})
    return step_ratio(passes(options), KINDS[kind]["model_type"])


def draw(found: dict[str, list[tuple[int, float, float, float]]], path: Path) -> None:
    """Seconds of a step by what grows, ours and plain; above each pair their ratio."""
    figure, places = plt.subplots(1, len(found), figsize=(3.4 * len(found), 3.4), layout="constrained", squeeze=False)
    for axes, (title, points) in zip(places[0], found.items(), strict=True):
        values, plain, ours, ratios = zip(*points, strict=True)
        axes.plot(values, ours, marker="o", label="TwinFlow, default")
        axes.plot(values, plain, marker="o", label="plain")
        for value, height, ratio in zip(values, ours, ratios, strict=True):
            axes.annotate(f"x{ratio:.2f}", (value, height), textcoords="offset points", xytext=(-4, 6), fontsize=8)
        axes.set_xticks(values)
        axes.set_ylim(0, 1.2 * max(ours))
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    places[0, 0].set_ylabel("processor seconds of a step")
    places[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
