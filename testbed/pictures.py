"""Few-step sampling from the demo's pipelines, and contact sheets of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor

from testbed.digits import CAPTIONS
from testbed.tiny_sd3 import T5_TOKENS

SchedulerFactory = Callable[[], Any]


def encode_prompts(pipeline: StableDiffusion3Pipeline, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeds prompts as the pipeline and the host do.

    Args:
        pipeline: Any SD3 pipeline.
        prompts: N prompts; "" is the empty one.

    Returns:
        Prompt embeddings, shape (N, 77 + T5_TOKENS, D), and pooled embeddings, shape (N, P).
    """
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS
        )
    return embeds, pooled


def even_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler steps without timestep shift."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def even_sigmas(steps: int) -> list[float]:
    """Noise levels 1, 1 - 1/K, ..., 1/K. (The scheduler's own grid ends at 0.001, which wastes one of a few steps.)"""
    return [1 - index / steps for index in range(steps)]


@torch.no_grad()
def sample(
    pipeline: StableDiffusion3Pipeline,
    labels: Sequence[int] | Tensor,
    seeds: Sequence[int] | Tensor,
    steps: int,
    sigmas: list[float] | None = None,
    scheduler_factory: SchedulerFactory = even_scheduler,
    own_grid: bool = False,
    guidance_scale: float = 0.0,
    batch: int = 200,
    captions: Sequence[str] = CAPTIONS,
) -> Tensor:
    """Draws one picture per label and seed; the same seed gives the same starting noise in every run and pipeline.

    Args:
        pipeline: An SD3 pipeline of the demo's size.
        labels: Rows of `captions`, length N.
        seeds: Seeds of the starting noise, length N.
        steps: Network evaluations per picture (twice as many with guidance).
        sigmas: Noise levels of the steps, `even_sigmas(steps)` by default.
        scheduler_factory: Makes the scheduler of each batch.
        own_grid: Let the scheduler choose its noise levels from `steps` alone; `sigmas` must be None.
        guidance_scale: Classifier-free guidance against the empty prompt if above 1.
        batch: Pictures drawn at a time.
        captions: The prompts; the ten digits' by default.

    Returns:
        Images, float32 in [0, 1], shape (N, 3, 64, 64).
    """
    if own_grid and sigmas is not None:
        raise ValueError("sample: pass either sigmas or own_grid, not both.")
    labels, seeds = torch.as_tensor(labels), torch.as_tensor(seeds)
    embeds, pooled = encode_prompts(pipeline, [*captions, ""])
    config = pipeline.transformer.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    images = []
    for part_labels, part_seeds in zip(labels.split(batch), seeds.split(batch), strict=True):
        scheduler = scheduler_factory()
        if own_grid:
            scheduler.set_timesteps(steps)
        else:
            scheduler.set_timesteps(sigmas=sigmas or even_sigmas(steps))
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in part_seeds])
        # Some schedulers draw noise between the steps, from a generator or from the global one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(part_seeds[0]))
            for t in scheduler.timesteps:
                time = t.expand(len(x))
                velocity = pipeline.transformer(x, embeds[part_labels], pooled[part_labels], time).sample
                if guidance_scale > 1:
                    empty = torch.full_like(part_labels, len(captions))
                    free = pipeline.transformer(x, embeds[empty], pooled[empty], time).sample
                    velocity = torch.lerp(free, velocity, guidance_scale)
                x = scheduler.step(velocity, t, x, return_dict=False)[0]
        images.append(decode(pipeline, x))
    return torch.cat(images)


@torch.no_grad()
def decode(pipeline: StableDiffusion3Pipeline, latents: Tensor) -> Tensor:
    """Turns latents of the transformer's scale into images in [0, 1], shape (N, 3, 64, 64)."""
    config = pipeline.vae.config
    decoded = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def contact_sheet(
    path: str | Path,
    rows: list[tuple[str, Tensor]],
    columns: Sequence[str] = tuple("0123456789"),
    title: str = "",
) -> None:
    """Draws labelled rows of pictures on white.

    Args:
        path: PNG file to write.
        rows: Title and images, float in [0, 1] or uint8, shape (M, 3, H, W); M may be a multiple of the number of
            columns, which gives the row several lines.
        columns: Column titles.
        title: Printed above everything, if any.
    """
    count = len(columns)
    lines = [len(images) // count for _, images in rows]
    cell, gap, left = 0.62, 0.16, 1.75
    top = 0.32 + (0.36 if title else 0.0)
    width, height = left + count * cell + 0.15, top + sum(lines) * cell + gap * (len(rows) - 1) + 0.15
    figure = plt.figure(figsize=(width, height), facecolor="white")
    if title:
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=12, weight="bold")
    for column, name in enumerate(columns):
        x = left + (column + 0.5) * cell
        figure.text(x / width, 1 - (top - 0.14) / height, name, ha="center", va="center", fontsize=10, color="0.35")
    y = height - top
    for (name, images), line_count in zip(rows, lines, strict=True):
        pictures = images.float() / 255 if images.dtype == torch.uint8 else images
        middle = (y - line_count * cell / 2) / height
        figure.text((left - 0.15) / width, middle, name, ha="right", va="center", fontsize=10)
        for line in range(line_count):
            y -= cell
            for column in range(count):
                box = ((left + column * cell) / width, y / height, 0.94 * cell / width, 0.94 * cell / height)
                axes = figure.add_axes(box)
                axes.imshow(pictures[line * count + column].permute(1, 2, 0).clamp(0, 1).numpy())
                axes.axis("off")
        y -= gap
    figure.savefig(path, dpi=150)
    plt.close(figure)
