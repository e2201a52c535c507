"""What a training step costs in SimpleTuner itself on a GPU: whole runs of a network of SD3.5-medium's shape.

python -m benchmarks.gpu.in_simpletuner [--kinds LoRA full]; some six minutes on one 80 GB card. Random weights, bf16,
batch 8, 512 px, no gradient checkpointing; the text encoders and the auto-encoder are tiny. `--tiny` runs all of it on
a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from benchmarks.cost.ways import ADVERSARIAL, BRANCH, HOST, NO_GUIDANCE, PLAIN, foretold
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.watch import FOLDER, IDLE, NOTES, TIMED, WAITED, watch
from testbed.digits import write_digits
from testbed.tiny_sd3 import build_vae
from testbed.trainer import ROOT, cpu_environment, datasets, demo_config, without_twinflow, write_run

SHAPE = SHAPES["SD3.5-medium, 512 px"]
LIMIT = 240  # seconds of a run
AT_ONCE = 3  # runs that load while one is measured
KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {"model_type": "lora", "lora_type": "standard", "lora_rank": 64, "optimizer": "adamw_bf16"},
    "full": {"model_type": "full", "optimizer": "adamw_bf16"},
}
WAYS: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    "K = 1, no guidance": NO_GUIDANCE,
    "K = 1, guidance 2 (default)": {},
    "adversarial, guidance 2": BRANCH,
    "host's own": HOST,
    ADVERSARIAL: HOST | BRANCH,
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.in_simpletuner", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kinds", nargs="*", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--ways", nargs="*", choices=[*WAYS], default=[*WAYS], help="plain training is measured always")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="a tiny network, on the CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmarks/gpu-in-simpletuner")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    write_pipeline(folder / "pipeline", arguments.tiny)
    write_digits(folder / "digits", limit=64)
    print(f"pipeline written, {time.monotonic() - began:.0f} s", flush=True)
    ways = [name for name in WAYS if name == PLAIN or name in arguments.ways]
    card = "CPU, tiny network" if arguments.tiny else torch.cuda.get_device_name()
    for kind in arguments.kinds:
        with ThreadPoolExecutor(1 if arguments.tiny else AT_ONCE) as pool:
            notes = dict(zip(ways, pool.map(partial(measured, folder, kind, arguments), ways), strict=True))
        text = f"{card}, torch {torch.__version__}, bf16, batch {arguments.batch}\n\n{table(kind, notes)}\n"
        (folder / f"{kind}.md").write_text(text, encoding="utf-8")
        (folder / f"{kind}.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
        print(f"{text}\n{time.monotonic() - began:.0f} s", flush=True)


def write_pipeline(folder: Path, tiny: bool) -> None:
    """The demo's pipeline with a network of the shape, its weights random, and an auto-encoder of as many channels."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(ROOT / "demo/base")
    width = pipeline.transformer.config.joint_attention_dim
    shape = SHAPE.config | (SHAPE.tiny if tiny else {})
    shape |= {"joint_attention_dim": width, "pooled_projection_dim": pipeline.transformer.config.pooled_projection_dim}
    torch.manual_seed(0)
    with torch.device("cpu" if tiny else "cuda"):
        network = SD3Transformer2DModel(**shape).to(torch.float32 if tiny else torch.bfloat16)
    with torch.no_grad():  # the last layer is zero at first, and a network that answers zero has no gradient
        for parameter in network.proj_out.parameters():
            parameter.normal_(std=0.02)
    pipeline.register_modules(transformer=network.cpu(), vae=build_vae(shape["in_channels"]))
    pipeline.save_pretrained(folder)


def measured(folder: Path, kind: str, arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run the installed command once. Returns: what the watch in it noted.

    Raises:
        RuntimeError: The run failed; its log's end is in the message.
    """
    run = folder / f"{kind}-{list(WAYS).index(name)}"
    side = 64 if arguments.tiny else 8 * SHAPE.size
    config = demo_config(
        pretrained_model_name_or_path=str(folder / "pipeline"),
        max_train_steps=IDLE + TIMED + WAITED + 1,
        checkpointing_steps=1000,
        validation_disable=True,
        report_to="none",
        train_batch_size=arguments.batch,
        gradient_checkpointing=False,
        torch_num_threads=4,
        resolution=side,
        mixed_precision="no" if arguments.tiny else "bf16",
        tokenizer_max_length=8 if arguments.tiny else 256,
        learning_rate=1e-5,
        twinflow_quality_samples=0,
        twinflow_target_step_count=1,
        twinflow_enhanced_ratio=0.5,
        **KINDS[kind] | ({"optimizer": "optimi-adamw"} if arguments.tiny else {}),
    ) | (WAYS[name] or {})
    config = without_twinflow(config) if WAYS[name] is None else config
    write_run(run, config, folder / "digits", data=partial(datasets, resolution=side))
    more = {} if arguments.tiny else {"MIXED_PRECISION": "bf16"}
    path = [str(ROOT), *([str(ROOT / "testbed/cpu")] if arguments.tiny else [])]
    environment = os.environ | cpu_environment() | more | {FOLDER: str(run), "PYTHONPATH": os.pathsep.join(path)}
    code = "from benchmarks.gpu.in_simpletuner import begin; begin()"
    with (run / "log.txt").open("wb") as log:
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, cwd=run, env=environment, stdout=log, stderr=log, timeout=LIMIT, check=False)
    shutil.rmtree(run / "output", ignore_errors=True)
    if not (run / NOTES).exists():
        raise RuntimeError(f"{run.name} ended with {ended.returncode}: {(run / 'log.txt').read_text()[-3000:]}")
    return json.loads((run / NOTES).read_text(encoding="utf-8"))


def begin() -> None:
    """Inside a run's own process: the watch, then the host's script that `simpletuner train` starts."""
    train = str(Path(find_spec("simpletuner").origin).parent / "train.py")
    sys.argv = [train]
    watch()
    runpy.run_path(train, run_name="__main__")


def table(kind: str, notes: dict[str, dict[str, Any]]) -> str:
    """A row a way."""
    lines = [
        "| trained | way | ms a step, mean (spread) | x plain | by passes | x the host's adversarial step | peak, GB "
        "| waits in two steps, of them in our files |",
        "|---|---|---|---|---|---|---|---|",
    ]
    mean = {name: statistics.mean(found["seconds"]) for name, found in notes.items()}
    for name, found in notes.items():
        took = [1000 * value for value in found["seconds"]]
        counted = foretold(WAYS[name], KINDS[kind]["model_type"])
        share = f"{mean[name] / mean[ADVERSARIAL]:.2f}" if ADVERSARIAL in mean else ""
        ours = sum(line.endswith(" ours") for line in found["waits"])
        lines.append(
            f"| {kind} | {name} | {statistics.mean(took):.0f} ({min(took):.0f} to {max(took):.0f}) "
            f"| {mean[name] / mean[PLAIN]:.2f} | {counted} | {share} | {found['peak_gb']:.1f} "
            f"| {len(found['waits'])}, {ours} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
