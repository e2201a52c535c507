"""Runs the same configurations in two checkouts and compares to the bit what comes of them.

python -m testbed.compare_checkouts BEFORE AFTER  (each set up with `make setup`; some four minutes)

Compared are the metrics that the host logs at each step, every weight in the output, and the validation's pictures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file

from testbed.digits import write_digits
from testbed.trainer import cpu_environment, demo_config, without_twinflow, write_run

QUICK = {
    "max_train_steps": 6,
    "checkpointing_steps": 3,
    "validation_steps": 3,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "report_to": "simpletuner",
    "seed": 42,
    "ema_decay": 0.9,
}
TWINFLOW = {"twinflow_enabled": True, "twinflow_adversarial_enabled": True, "twinflow_enhanced_ratio": 0.5}
CONFIGS = {
    "lora": demo_config(**QUICK, **TWINFLOW, model_type="lora", lora_rank=4, twinflow_target_step_count=2),
    "full": demo_config(**QUICK, **TWINFLOW, model_type="full", twinflow_loss="barron", twinflow_time_weighting=True),
    "signed": demo_config(**QUICK, **TWINFLOW, model_type="lora", twinflow_time_conditioning="signed_time"),
    "off": without_twinflow(demo_config(**QUICK)),
}
CPU = Path(__file__).parent / "cpu"
METRICS = "training_metrics.jsonl"
MACHINE = ("second", "minute", "time", "memory", "epoch", "system/")  # in the names of metrics that no two runs share


def run(checkout: Path, folder: Path, config: dict[str, Any], images: Path) -> Path:
    """Train in a checkout's own environment. Returns: the run's output folder."""
    write_run(folder, config | {"output_dir": "output"}, images)
    binaries = checkout.resolve() / ".venv/bin"
    environment = os.environ | cpu_environment()
    environment |= {"PATH": f"{binaries}:{environment['PATH']}", "PYTHONPATH": str(CPU)}
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(
            [binaries / "simpletuner", "train"], cwd=folder, env=environment, stdout=log, stderr=log, check=False
        ).returncode
    if code:
        sys.exit(f"{folder} ended with {code}; its last lines:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return folder / "output"


def metrics(output: Path) -> list[dict[str, float]]:
    """What the host logged, in order, without what measures the machine."""
    records = map(json.loads, (output / METRICS).read_text(encoding="utf-8").splitlines())
    return [
        {name: value for name, value in record["metrics"].items() if not any(part in name for part in MACHINE)}
        for record in records
    ]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file of weights, by file and name."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(output.rglob("*.safetensors")):
        found |= {f"{file.relative_to(output)}: {name}": tensor for name, tensor in load_file(file).items()}
    for file in sorted([*output.rglob("*.pt"), *output.rglob("*.pth")]):
        content = torch.load(file, map_location="cpu", weights_only=True)
        found |= {f"{file.relative_to(output)}: {name}": tensor for name, tensor in _tensors(content)}
    return found


def _tensors(content: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        return [(prefix, content)]
    parts = content.items() if isinstance(content, dict) else ()
    return [pair for name, part in parts for pair in _tensors(part, f"{prefix}/{name}")]


def pictures(output: Path) -> dict[str, Image.Image]:
    """The validation's pictures by file."""
    return {str(file.relative_to(output)): Image.open(file).convert("RGB") for file in sorted(output.rglob("*.png"))}


def _same(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is None


def differences(before: Path, after: Path) -> list[str]:
    """A line on each thing that is not the same to the bit."""
    found = [
        f"step record {number}: {one} and {other}"
        for number, (one, other) in enumerate(zip(metrics(before), metrics(after), strict=True))
        if one != other
    ]
    for read, equal in (
        (weights, torch.equal),
        (pictures, lambda *pair: ImageChops.difference(*pair).getbbox() is None),
    ):
        one, other = read(before), read(after)
        found += [f"only one has {name}" for name in one.keys() ^ other.keys()]
        found += [f"{name} differs" for name in one.keys() & other.keys() if not equal(one[name], other[name])]
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--folder", type=Path, help="to keep the runs in")
    arguments = parser.parse_args()
    base = arguments.folder or Path(tempfile.mkdtemp())
    write_digits(base / "digits", limit=64)
    worst = 0
    for name, config in CONFIGS.items():
        outputs = [
            run(checkout, base / f"{name}-{which}", config, base / "digits")
            for which, checkout in (("before", arguments.before), ("after", arguments.after))
        ]
        found = differences(*outputs)
        compared = f"{len(metrics(outputs[0]))} records, {len(weights(outputs[0]))} tensors, "
        compared += f"{len(pictures(outputs[0]))} pictures"
        print(f"{name}: {compared}: {'the same to the bit' if not found else f'{len(found)} differences'}", flush=True)
        print(*found[:20], sep="\n", end="\n" if found else "")
        worst |= bool(found)
    sys.exit(worst)


if __name__ == "__main__":
    main()
