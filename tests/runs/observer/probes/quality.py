"""Asks the run's own measure about real rows in place of samples, as they are and made worse on purpose."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .events import around, note


def blurred(x: Tensor, prompts: list[str]) -> Tensor:
    """Each a fifth of the way nearer to the mean of its prompt: what a bad one-step model draws."""
    groups = {prompt: [row for row, other in enumerate(prompts) if other == prompt] for prompt in prompts}
    means = torch.stack([x[groups[prompt]].mean(dim=0) for prompt in prompts])
    return torch.lerp(x, means, 0.2)


def noisy(x: Tensor, prompts: list[str]) -> Tensor:
    """With noise of half of the data's standard deviation."""
    return x + 0.5 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def without_two_prompts(x: Tensor, prompts: list[str]) -> Tensor:
    """As many, of all prompts but two."""
    kept = [row for row, prompt in enumerate(prompts) if prompt not in sorted(set(prompts))[:2]]
    return x[torch.tensor(kept)[torch.arange(len(x)) % len(kept)]]


def note_damage() -> None:
    """Note what the measure says when its own rows are halved: one half the data, the other half the samples."""

    def call(wrapped: Callable, measure: Any, args: tuple, kwargs: dict) -> Any:
        from simpletuner_twinflow.host.drawing.latents import prompts_of
        from simpletuner_twinflow.host.drawing.measure import _numbers
        from simpletuner_twinflow.quality.measures import Diversity

        data, drawn = measure.rows.batches
        latents, prompts = drawn["latents"], prompts_of([drawn])
        scale = measure._scale([data["latents"]])
        real = measure._features([data["latents"]], scale)
        diversity = Diversity(real, _numbers(prompts))
        for damage in (None, blurred, noisy, without_two_prompts):
            worse = latents if damage is None else damage(latents, prompts)
            found = measure._compared("it", measure._features([worse], scale), real, diversity)
            note(
                kind="damage",
                name=damage.__name__ if damage else "none",
                far=found["it/mmd_in_errors"],
                frechet=found["it/frechet"],
            )
        return {}

    around("simpletuner_twinflow.host.drawing.measure", "QualityMeasure.values", call)
