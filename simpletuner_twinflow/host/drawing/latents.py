"""Samples drawn in memory, in the model's own latents: for the prompts of kept training rows, as a pipeline would."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from simpletuner_twinflow.host.training.batches import select_rows
from simpletuner_twinflow.host.training.family_model import FamilyModel
from simpletuner_twinflow.host.training.first_frame import with_first_frame
from simpletuner_twinflow.method.batch import ONE_STEP, Predict, PromptRows, call
from simpletuner_twinflow.method.flow import endpoints, interpolate, per_sample
from simpletuner_twinflow.method.time_conditioning import sampler_target_time


class KeptRows:
    """The first rows of a run's batches, on the CPU, until there are enough of them."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.count = wanted, 0
        self.batches: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        """Whether there are as many rows as are wanted."""
        return self.count >= self.wanted

    def add(self, batch: Mapping[str, Any]) -> None:
        """Keep rows of a prepared host batch, as many as are missing."""
        rows = min(len(batch["latents"]), self.wanted - self.count)
        if rows > 0:
            self.batches.append(moved(select_rows(batch, range(rows)), torch.device("cpu"), copied=True))
            self.count += rows


def moved(value: Any, device: torch.device, *, copied: bool = False) -> Any:
    """A host batch, or a part of it, with its tensors on this device. Args: copied: also where they are there."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=copied)
    if isinstance(value, dict):
        return {key: moved(item, device, copied=copied) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, device, copied=copied) for item in value)
    return value


@torch.no_grad()
def few_step_samples(model: FamilyModel, steps: int, batch: Mapping[str, Any], seed: int) -> Tensor:
    """Latents for a batch's prompts in this many steps, as the exported model and its scheduler draw them.

    Args:
        model: in whose network the weights are.
        steps: calls of the network.
        batch: a host batch on the network's device; all but its prompts, shapes and first frames is replaced.
        seed: of the start noise, and of the noise in between if there is any.
    """
    own_steps = model.step_times if model.steps_are_conditioned else ONE_STEP
    predict, draw = model.predict_with(batch), _Noise(batch["latents"], seed)
    x = draw()
    for t, following in pairwise((*model.scheduler().step_times(steps), 0.0)):
        times = x.new_full((len(x),), t)
        velocity = _asked(predict, x, times, sampler_target_time(times, own_steps))
        ends = endpoints(x, velocity, times)
        if following == 0:
            return with_first_frame(batch, ends.x_hat)
        noise = ends.z_hat if model.steps_are_conditioned else draw()
        x = interpolate(ends.x_hat, noise, times.new_full((len(x),), following)).x_t
    raise AssertionError("a sampler has one step at least")


@torch.no_grad()
def many_step_samples(model: FamilyModel, steps: int, scale: float, batch: Mapping[str, Any], seed: int) -> Tensor:
    """Latents by Euler steps along the ODE at this guidance scale; 1 needs no empty prompt. Args: as above."""
    predict, x = model.predict_with(batch), _Noise(batch["latents"], seed)()
    edges = torch.linspace(1, 0, steps + 1).tolist()
    for t, following in pairwise(edges):
        times = x.new_full((len(x),), t)
        velocity = _asked(predict, x, times, times)
        if scale != 1:
            empty = _asked(predict, x, times, times, unconditional=True)
            velocity = empty + scale * (velocity - empty)
        x = x - per_sample(times - times.new_full((len(x),), following), like=x) * velocity
    return with_first_frame(batch, x)


def _asked(predict: Predict, x: Tensor, t: Tensor, r: Tensor, *, unconditional: bool = False) -> Tensor:
    return call(predict, x, t, r, torch.ones_like(t), PromptRows(tuple(range(len(x))), unconditional=unconditional))


class _Noise:
    """Standard normal noise of a batch's shape in float32, on its device, from a seed alone."""

    def __init__(self, like: Tensor, seed: int) -> None:
        self._like, self._generator = like, torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        return torch.randn(self._like.shape, generator=self._generator).to(self._like.device)


@contextmanager
def drawing_mode(network: torch.nn.Module) -> Iterator[None]:
    """Inside this block the network draws: dropout and the like are off."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.train(training)  # parents come first


def prompts_of(batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """The prompt of each row of these batches; of a batch without words a name for each row."""
    found: list[str] = []
    for number, batch in enumerate(batches):
        words = batch.get("prompts")
        size = len(batch["latents"])
        found += words if words and len(words) == size else [f"row {row} of batch {number}" for row in range(size)]
    return found
