"""The curves of the tiny SD3 on digits in the host: runs from files on disk, their averages drawn with as they go."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.curves.watch import EVERY, FOLDER
from benchmarks.in_host import host_server, watched
from benchmarks.sd3.problems import DIGITS
from benchmarks.sd3.ways import FRESH_NOISE, plain_config, run_config
from testbed.pictures import even_scheduler, sample
from testbed.side_by_side import DEMO_BASE, base_pipeline
from testbed.trainer import is_finished, write_run

CALLS, SAMPLES, LIMIT = (1, 2), 1000, 1800
Curve = list[tuple[float, dict[str, float]]]  # processor seconds, and the distance by the number of calls
PLAIN, REFERENCE, OURS = "plain", "reference recipe", "ours"
LONGER = 2.7  # times the steps, which gives ours about the reference's time
EARLY, LATER = 8, 4  # of its looks the first are judged, and then one of so many


def configs(seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """The ways to train: the host's keys of each."""
    own: dict[str, Any] = {"twinflow_target_step_count": 1}
    branch = {"twinflow_adversarial_enabled": True}
    host = own | {"twinflow_implementation": "host"}
    changes = {
        "SimpleTuner's own": host,
        "SimpleTuner's own, adversarial": host | branch,
        REFERENCE: own | {"twinflow_role_shares": {"any_step": 1.0}},
    }
    plain = plain_config(DEMO_BASE, seed, steps) | {"use_ema": True, "ema_decay": 0.99}
    found = {PLAIN: plain} | {name: run_config(DEMO_BASE, seed, steps, **more) for name, more in changes.items()}
    found[OURS] = run_config(DEMO_BASE, seed, round(LONGER * steps), **own)
    quiet = {"report_to": "none", "twinflow_quality_samples": 0}
    return {
        name: {key: it for key, it in (config | quiet).items() if _belongs(key, name)} for name, config in found.items()
    }


def _belongs(key: str, name: str) -> bool:
    return name != PLAIN or not key.startswith("twinflow_")


def curves(folder: Path, seed: int, steps: int, every: int, at_once: int, console: Console) -> dict[str, Curve]:
    """Train in every way and judge the averages after `every` steps each; what is done already is not repeated."""
    if not (folder / DIGITS.images).exists():
        DIGITS.write(folder / DIGITS.images)
    server = host_server(folder)

    def train(name: str, config: dict[str, Any]) -> Path:
        run = folder / f"seed-{seed}-{name.lower().replace(' ', '-').replace(',', '')}"
        if (run / "curve.json").exists() or is_finished(run):
            return run
        write_run(run, config, folder / DIGITS.images)
        prelude = "benchmarks.curves.watch:" + ("watch_reference" if name == REFERENCE else "watch")
        watched(server, run, {FOLDER: str(run), EVERY: str(every)}, prelude, LIMIT)
        console.print(f"seed {seed}, {name}: trained", soft_wrap=True)
        return run

    with ThreadPoolExecutor(at_once) as pool:
        runs = dict(zip(names := configs(seed, steps), pool.map(train, names, names.values()), strict=True))
    server.close()
    return {name: _judged(run, name, console) for name, run in runs.items()}


def _judged(run: Path, name: str, console: Console) -> Curve:
    if (file := run / "curve.json").exists():
        return json.loads(file.read_text(encoding="utf-8"))
    pipeline, judge, labels = base_pipeline(), DIGITS.judge(), DIGITS.asked(SAMPLES)
    own = {"scheduler_factory": even_scheduler, "own_grid": False}
    drawn = own if name == PLAIN else {"scheduler_factory": FRESH_NOISE, "own_grid": True}
    curve: Curve = []
    known = set(pipeline.transformer.state_dict())
    snapshots = sorted(run.glob("0*.pt"))
    for snapshot in snapshots[:EARLY] + snapshots[EARLY + LATER - 1 :: LATER]:
        found = torch.load(snapshot, weights_only=True)
        weights = {key: value for key, value in found["weights"].items() if key in known}
        lacking, _ = pipeline.transformer.load_state_dict(weights, strict=False)
        if {*lacking} & dict(pipeline.transformer.named_parameters()).keys():
            raise RuntimeError(f"{snapshot} lacks {lacking}")
        scores = {}
        for calls in CALLS:
            images = sample(pipeline, labels, range(SAMPLES), calls, captions=DIGITS.captions, **drawn)
            scores[str(calls)] = judge(images, labels)["real"]
        curve.append((found["seconds"], scores))
        console.print(f"{run.name}, {found['seconds']:.0f} s: {scores}", soft_wrap=True)
    file.write_text(json.dumps(curve), encoding="utf-8")
    return curve
