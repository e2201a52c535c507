"""One training loop for all variants, and the run of one of them from the base model to its figures."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits.guidance import distances_to_base, learnt_scale
from benchmarks.digits.network import TwinNet
from benchmarks.digits.recipes import recipe_of
from benchmarks.digits.setup import Net, OnStep, base_model, euler, few_step, judge, load_data, score
from benchmarks.digits.variants import VARIANTS, Variant
from simpletuner_twinflow.method.teacher import teacher_weights
from testbed.judge import Judge

BATCH = 128
LEARNING_RATE = 2e-4
GRADIENT_CLIP = 1.0
FEW_STEPS = (1, 2, 4)
EULER_STEPS = 50
LOOK_EVERY = 75  # steps
CURVE_STEPS = (1, 2)  # of the distance at each look


class AveragedWeights:
    """Exponential moving averages, their decay raised step by step: `d <- d + (1 - d) (target - d) / 2`, from 0."""

    def __init__(self, net: TwinNet, decay: float) -> None:
        """Args: net: whose parameters are averaged. decay: the one that is warmed up to."""
        self._parameters = list(net.parameters())
        self._target, self._decay = decay, 0.0
        self.shadows = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now, in place."""
        self._decay += (1 - self._decay) * (self._target - self._decay) / 2
        torch._foreach_lerp_(self.shadows, self._parameters, 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the block with the averages in the network."""
        with teacher_weights(self._parameters, self.shadows):
            yield


@dataclass(frozen=True)
class Trained:
    """A network after training, and what the training took."""

    net: TwinNet
    average: AveragedWeights
    cost: float  # passes without gradient a row and step
    milliseconds: float  # processor time of a step, the median


Look = Callable[[int, float, TwinNet, AveragedWeights], None]
"""Called with the number of steps made, the processor seconds that they took, the network and its averages, after every
`LOOK_EVERY` steps; draws no global random numbers.
"""


def train(
    variant: Variant,
    base: Net,
    seed: int,
    steps: int,
    on_step: OnStep = lambda step: None,
    look: Look = lambda step, seconds, net, average: None,
) -> Trained:
    """Train a copy of the base model: Adam, gradient clip, all random numbers from the seed."""
    torch.manual_seed(seed)
    digits, labels = load_data()
    net = TwinNet(copy.deepcopy(base), variant.target_time, variant.step_times)
    average = AveragedWeights(net, variant.ema_decay)
    if variant.recipe == "none":
        return Trained(net, average, cost=0.0, milliseconds=0.0)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    step_of = recipe_of(variant, net, average.shadows, seed)
    choice = torch.Generator().manual_seed(seed)
    durations, cost = [], 0
    for step in range(steps):
        # Processor time, so that other work on the machine does not count.
        began = time.process_time()
        rows = torch.randint(len(digits), (BATCH,), generator=choice)
        taken = step_of(digits[rows], labels[rows], step)
        optimizer.zero_grad()
        taken.loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_CLIP)
        optimizer.step()
        average.update()
        durations.append(time.process_time() - began)
        cost += taken.cost
        on_step(step + 1)
        if (step + 1) % LOOK_EVERY == 0:
            look(step + 1, sum(durations), net, average)
    return Trained(net, average, cost=cost / (BATCH * steps), milliseconds=1000 * statistics.median(durations))


def draw(
    net: TwinNet, variant: Variant, few: tuple[int, ...] = FEW_STEPS, euler_steps: tuple[int, ...] = (EULER_STEPS,)
) -> dict[int, tuple[Tensor, Tensor]]:
    """Samples of the network as it is now and their labels, by number of calls.

    In few calls by the sampler of the variant's runs in the host: with Euler steps from 2 target steps on, else with
    fresh noise. Those of `euler_steps` follow the ODE, r = t.
    """
    times, fresh = variant.sampler.step_times, not variant.own_steps
    drawn = {calls: few_step(net.few_step_field, times(calls), fresh_noise=fresh) for calls in few}
    return drawn | {calls: euler(net.velocity_field, calls) for calls in euler_steps}


def scores(drawn: dict[int, tuple[Tensor, Tensor]], examiner: Judge) -> dict[str, dict[str, float]]:
    """How good samples are, by number of calls."""
    return {str(calls): asdict(score(examiner, *samples)) for calls, samples in drawn.items()}


def run(name: str, seed: int, steps: int, folder: Path, on_step: OnStep = lambda step: None) -> dict[str, Any]:
    """Train and judge one variant; the result is ready for JSON.

    Args:
        name: of the variant.
        seed: of training; sampling has its own.
        steps: of training.
        folder: where base model and classifier are, or are put.
        on_step: see `OnStep`.
    """
    variant = VARIANTS[name]
    examiner = judge(folder / "classifier.pt")
    path, scale = folder / "base.pt", variant.objective.scale
    base, growth, curve = base_model(path), [], []

    def look(step: int, seconds: float, net: TwinNet, average: AveragedWeights) -> None:
        with average.applied():
            if scale > 1:
                growth.append((step, learnt_scale(net, base)))
            found = draw(net, variant, few=CURVE_STEPS, euler_steps=())
        curve.append((seconds, {calls: score["frechet"] for calls, score in scores(found, examiner).items()}))

    trained = train(variant, base, seed, steps, on_step, look)
    student = scores(draw(trained.net, variant), examiner)
    with trained.average.applied():
        drawn = draw(trained.net, variant)
        learnt = learnt_scale(trained.net, base)
    to_base = distances_to_base(examiner, {calls: x for calls, (x, _) in drawn.items()}, path, scale, EULER_STEPS)
    return {
        "variant": name,
        "definition": variant.definition,
        "seed": seed,
        "steps": steps,
        "cost": trained.cost,
        "milliseconds": trained.milliseconds,
        "ema": scores(drawn, examiner),
        "base": to_base,
        "learnt": learnt,
        "growth": growth,
        "curve": curve,
        "student": student,
    }
