"""What is trained for the tables, and what they say of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.sd3.problems import DIGITS, SHAPES, Problem
from benchmarks.sd3.ways import Way, plain_config, run_config
from testbed.pictures import sample
from testbed.side_by_side import DEMO_BASE, base_pipeline, run_folder, train_side_by_side, trained_pipeline
from testbed.trainer import is_finished

KNOWING, KNOWING_STEPS = "base that knows digits", 800
SCALE, TARGET_CALLS = 2.0, 50  # the scale of the default guidance ratio, 0.5
UNTOUCHED, PLAIN, HOST = "base, untouched", "plain", "host's own TwinFlow"
HOSTS = {"flow_use_uniform_schedule": False}
TIMES: dict[str, dict[str, Any]] = {
    "logit-normal times": HOSTS,
    "logit-normal times, shift 3": HOSTS | {"flow_schedule_shift": 3.0},
    "pairs of logit-normal times": {"twinflow_time_sampling": "logit_normal"},
}
LINEAR = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    *("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out"),
]
LORA: dict[str, Any] = {
    "model_type": "lora",
    "lora_type": "standard",
    "lora_rank": 64,
    "learning_rate": 1e-3,
    "peft_lora_target_modules": LINEAR,
}


@dataclass(frozen=True)
class Table:
    """Ways that are compared."""

    title: str
    calls: tuple[int, ...]
    """Network calls per picture."""
    ways: Callable[[Path, int, int], list[Way]]
    """The rows: of the base's folder, the training seed and the number of steps."""
    note: str
    longer: int = 1
    """Runs of this table are as many times as long."""
    columns: dict[str, str] = field(default_factory=lambda: {"real": "FD"})
    """Kinds of distance and their titles, shown by the number of calls."""
    beside: tuple[str, str] = ("agreement 1", "class agreement, 1 step")
    """A score that is shown once, and its title."""
    problem: Problem = DIGITS


def few_step_ways(base: Path, seed: int, steps: int) -> list[Way]:
    """Plain training, the host's own TwinFlow and ours for 1, 2 and 4 steps, without guidance."""
    ours = [
        Way(f"TwinFlow K = {count}", run_config(base, seed, steps, twinflow_target_step_count=count))
        for count in (1, 2, 4)
    ]
    host = run_config(base, seed, steps, twinflow_implementation="host")
    return [Way(UNTOUCHED), Way(PLAIN, plain_config(base, seed, steps)), Way(HOST, host), *ours]


def guidance_ways(base: Path, seed: int, steps: int) -> list[Way]:
    """Plain training and ours at the default guidance, whole networks and LoRAs."""
    found = [Way(UNTOUCHED)]
    for kind, changes in {"full": {}, "LoRA": LORA}.items():
        found.append(Way(f"plain, {kind}", plain_config(base, seed, steps, **changes)))
        for count, reference in ((1, "base"), (2, "base"), (2, "ema")):
            guided = {"twinflow_enhanced_ratio": 1 - 1 / SCALE, "twinflow_guidance_reference": reference}
            config = run_config(base, seed, steps, twinflow_target_step_count=count, **changes, **guided)
            found.append(Way(f"TwinFlow K = {count}, {kind}, reference {reference}", config))
    return found


def part_ways(base: Path, seed: int, steps: int) -> list[Way]:
    """Where the times of near and any_step rows come from, and what the adversarial branch adds."""
    found = []
    for count in (1, 2):
        for title, times in TIMES.items():
            config = run_config(base, seed, steps, twinflow_target_step_count=count, **times)
            found.append(Way(f"K = {count}, {title}", config))
    for weight in (0.0, 1.0, 2.0):
        branch = {"twinflow_adversarial_enabled": True, "twinflow_rectify_weight": weight}
        config = run_config(base, seed, steps, twinflow_target_step_count=1, **branch)
        found.append(Way(f"K = 1, branch on, rectify {weight:g}", config))
    return found


def shape_ways(base: Path, seed: int, steps: int) -> list[Way]:
    """Plain training and ours for 1, 2 and 4 steps, drawn by Euler steps and noised anew."""
    found = [Way(UNTOUCHED), Way(PLAIN, plain_config(base, seed, steps))]
    for count in (1, 2, 4):
        config, name = run_config(base, seed, steps, twinflow_target_step_count=count), f"TwinFlow K = {count}"
        other = "noised anew" if count > 1 else "Euler"
        found += [Way(name, config), Way(f"{name}, {other}", config, other, trained=name)]
    return found


FEW_STEPS = Table(
    "Few steps",
    (1, 2, 4),
    few_step_ways,
    """
{steps} steps of batch 16 from the demo's base, {seeds} training seed(s): mean ± standard deviation. FD is the
Frechet distance of {samples} pictures to the real digits in a classifier's features, lower is better; EMA weights. The
config is `sample_configs/cpu-demo.json` with `twinflow_enhanced_ratio` 0 and `twinflow_adversarial_enabled` false; K
is `twinflow_target_step_count`; "host's own TwinFlow" has `twinflow_implementation: host` on top, "plain" no
`twinflow_*` key. Plain models are drawn by Euler steps, K = 2 and 4 by the default sampler, K = 1 and the host's own
with fresh noise.
""",
)
PARTS = Table(
    "Parts",
    (1, 2, 4),
    part_ways,
    """
As TwinFlow K = 1 and 2 in the table above, whose times are uniform, with one thing changed: the times of near and
any_step rows ("logit-normal" is SimpleTuner's default, "pairs" is `twinflow_time_sampling: logit_normal`), or the
adversarial branch switched on, with its `twinflow_rectify_weight`.
""",
)
GUIDANCE = Table(
    "Guidance",
    (1, 2),
    guidance_ways,
    f"""
{{steps}} steps of batch 16, {{seeds}} training seed(s), from a base that knows the digits: the demo's, trained on
plainly for {KNOWING_STEPS} steps. "To guided" is the FD to {{samples}} pictures that this base draws itself at guidance
{SCALE:g} in {TARGET_CALLS} Euler steps from other noise. `twinflow_enhanced_ratio` is {1 - 1 / SCALE:g}; all is drawn
without guidance. LoRA: rank {LORA["lora_rank"]} on all linear layers, learning rate {LORA["learning_rate"]:g}; full:
3e-4. Samplers and the rest as above; a plain LoRA's export has no EMA weights.
""",
    longer=2,
    columns={"target": "to guided", "real": "to real digits"},
)

SHAPES_TABLE = Table(
    "Shapes",
    (1, 2, 4),
    shape_ways,
    """
{steps} steps of batch 16 from the demo's base of coloured shapes, {seeds} training seed(s): mean ± standard deviation.
A prompt says "a circle" and leaves colour, place and size open. MMD is the demo's distance: of 200 pictures to as many
real ones, in standard errors, lower is better and below 3 not to be told apart; the mean over {samples} pictures, EMA
weights. "Spread" is the mean distance of two pictures of a prompt as a share of real ones'. Config as above; each K is
drawn by what it exports, and by the other sampler.
""",
    columns={"real": "MMD"},
    beside=("spread 1", "spread, 1 step"),
    problem=SHAPES,
)


def knowing_base(folder: Path, console: Console) -> Path:
    """A pipeline that has learnt the digits by plain training, made once."""
    pipeline = folder / "knowing"
    if not pipeline.exists():
        if not is_finished(run_folder(folder, KNOWING)):
            train_side_by_side(folder, {KNOWING: plain_config(DEMO_BASE, 1, KNOWING_STEPS)}, console)
        trained_pipeline(folder, KNOWING).save_pretrained(pipeline)
    return pipeline


def guided_pictures(folder: Path, base: Path, samples: int) -> torch.Tensor:
    """What that base draws with guidance in many steps, uint8 (samples, 3, 64, 64), drawn once."""
    file = folder / f"guided-{samples}.pt"
    if not file.exists():
        labels, seeds = DIGITS.asked(samples), range(samples, 2 * samples)
        images = sample(base_pipeline(base), labels, seeds, TARGET_CALLS, guidance_scale=SCALE)
        torch.save((images * 255).round().to(torch.uint8), file)
    return torch.load(file, weights_only=True)
