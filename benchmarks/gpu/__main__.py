"""What a training step of TwinFlow costs on an accelerator: time and memory against plain training, waits, launches.

python -m benchmarks.gpu [--output FOLDER]; under eight minutes on a bare CUDA machine with torch, diffusers and peft.
Networks in the shapes of SD3.5-medium and SANA-1.6B with random weights, bf16, LoRA and full fine-tune; no data and no
SimpleTuner, so the figures are of the objective and the network alone. `--tiny` runs all of it on a CPU in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.training import PLAIN, WAYS, Trained, Way
from simpletuner_twinflow.method.cost import passes, step_ratio
from simpletuner_twinflow.method.objective import ObjectiveSettings

REPEATS = 5  # blocks of each way, in turn
BLOCK = 4  # steps of a block; with batch 8 each role has its share of rows in it


def measured(
    shape_name: str, model_type: str, batch: int, device: torch.device, tiny: bool, asked: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of one network's table."""
    trained = Trained(SHAPES[shape_name], model_type, batch, device, tiny)
    found: dict[str, dict[str, Any]] = {}
    ways: dict[str, Way] = {}
    for name in (it for it in WAYS if it == PLAIN or it in asked):
        # Memory first: what a way keeps beside the network comes as it is needed.
        settings = WAYS[name]
        options = None if settings is None else ObjectiveSettings(**settings)
        if options is not None and not trained.shadows:
            trained.keep_shadows()
        if options is not None and options.scale > 1 and not trained.base:
            trained.keep_base()
        ways[name] = way = Way(trained, options)
        way.step()
        found[name] = {"peak_gb": _peak(way, device), "waits": _waits(way, device), "launches": _launches(way, device)}
        assert bool(torch.isfinite(way.step())), f"{shape_name}, {model_type}, {name}: the loss is not finite"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if tiny else REPEATS):
        for name, way in ways.items():
            times[name].append(_seconds(way, device, 1 if tiny else BLOCK))
    plain = times[PLAIN]
    rows = []
    for name, way in ways.items():
        ratios = [mine / base for mine, base in zip(times[name], plain, strict=True)]
        more = {} if way.options is None else passes(way.options)
        kept = sum(it.numel() * it.element_size() for it in trained.shadows) if way.options else 0
        rows.append(
            {
                "network": shape_name,
                "parameters": sum(it.numel() for it in trained.network.parameters()),
                "model_type": model_type,
                "batch": batch,
                "way": name,
                "step_ms": 1000 * statistics.median(times[name]),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "foretold": step_ratio(more, model_type),
                "passes_a_row": way.forwards / max(1, way.steps * batch),
                "ema_gb": kept / 1e9,
                **found[name],
            }
        )
    return rows


def _seconds(way: Way, device: torch.device, steps: int) -> float:
    """Per step, in a block of so many."""
    _finish(device)
    began = time.perf_counter()
    for _ in range(steps):
        way.step()
    _finish(device)
    return (time.perf_counter() - began) / steps


def _peak(way: Way, device: torch.device) -> float:
    """Most memory of a block of steps, in GB, with all that lives beside them."""
    if device.type != "cuda":
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(BLOCK):
        way.step()
    return torch.cuda.max_memory_allocated(device) / 1e9


def _waits(way: Way, device: torch.device) -> int:
    """How often the CPU waits for the device in two steps, as CUDA's debug mode says."""
    with _counted_waits(device) as said:
        way.step()
        way.step()
    return len(said)


@contextlib.contextmanager
def _counted_waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield said
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            said[:] = [warning for warning in said if "synchroniz" in str(warning.message)]


def _launches(way: Way, device: torch.device) -> int:
    """Kernels that one step starts."""
    if device.type != "cuda":
        return 0
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        way.step()
        _finish(device)
    return sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | trained | way | ms a step | x plain (spread) | foretold by passes | passes a row | peak, GB "
        "| waits in two steps | kernels |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        cells = (
            *(row["network"], row["model_type"], row["way"], f"{row['step_ms']:.0f}", spread),
            *(f"{row['foretold']:.2f}", f"{row['passes_a_row']:.2f}", f"{row['peak_gb']:.1f}"),
            *(row["waits"], row["launches"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all and print; `gpu.json` and `gpu.md` in the folder are written after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="NAME")
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help="plain is measured always"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on the CPU")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device is at hand; --tiny tries the benchmark itself on the CPU")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    if arguments.tiny:
        torch.set_num_threads(1)
    card = "CPU, tiny networks" if arguments.tiny else torch.cuda.get_device_name(device)
    title = f"{card}, torch {torch.__version__}, bf16, batch {arguments.batch}"
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        for model_type in ("lora", "full"):
            began = time.monotonic()
            rows += measured(name, model_type, arguments.batch, device, arguments.tiny, arguments.ways)
            print(f"{name}, {model_type}: took {time.monotonic() - began:.0f} s", flush=True)
            document = json.dumps({"title": title, "rows": rows}, indent=1)
            (arguments.output / "gpu.json").write_text(document, encoding="utf-8")
            (arguments.output / "gpu.md").write_text(f"{title}\n\n{table(rows)}\n", encoding="utf-8")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"{title}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
