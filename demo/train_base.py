"""Makes a base: trains the auto-encoder, pre-trains the transformer with plain flow matching, saves the pipeline.

Ten to twenty minutes on two otherwise idle cores: `python -m demo.train_base digits` makes `demo/base`, which tests and
benchmarks begin from, and `python -m demo.train_base shapes` makes `demo/shapes_base`, the demo's own.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm import trange

from demo.train_vae import encode, train_vae
from testbed import digits, shapes
from testbed.pictures import encode_prompts
from testbed.tiny_sd3 import build_pipeline, clear_paths

EMA_DECAY = 0.998
SHAPES = 6000


@dataclass(frozen=True)
class Pictures:
    """What a base learns to draw."""

    images: Tensor
    """(N, 3, 64, 64) in [-1, 1]."""
    codes: Tensor
    """The same at the size of the latents, (N, C, 8, 8) in [-1, 1]."""
    labels: Tensor
    """Rows of the captions, (N,)."""
    captions: list[str]
    folder: Path
    vae_steps: int
    steps: int
    batch: int
    """A quarter of it for the auto-encoder."""


def handwritten_digits() -> Pictures:
    """All of scikit-learn's, with the 8 x 8 recordings that they were drawn from as codes."""
    pixels, labels = digits.render_digits()
    codes = torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8) / 8 - 1
    return Pictures(
        pixels.float() / 127.5 - 1, codes, labels, digits.CAPTIONS, Path(__file__).parent / "base", 400, 6000
    )


def coloured_shapes() -> Pictures:
    """Shapes other than those the demo fine-tunes on, with their small averages as codes."""
    pixels, labels = shapes.render_shapes(SHAPES, seed=1)
    images = pixels.float() / 127.5 - 1
    codes, folder = F.adaptive_avg_pool2d(images, 8), Path(__file__).parent / "shapes_base"
    return Pictures(images, codes, labels, shapes.CAPTIONS, folder, 1500, 16000, 64)


def pretrain(
    transformer: SD3Transformer2DModel,
    prompts: tuple[Tensor, Tensor],
    latents: Tensor,
    labels: Tensor,
    steps: int,
    rate: float,
    batch: int,
    dropout: float = 0.1,
) -> SD3Transformer2DModel:
    """Plain flow matching, x_t = t z + (1 - t) x with velocity z - x and t uniform; Adam, cosine decay.

    Args:
        transformer: Trained in place.
        prompts: Embeddings, shape (C, L, D), and pooled embeddings, shape (C, P): captions, then the empty prompt.
        latents: Shape (V, N, C, H, W): V auto-encoder samples of each image.
        labels: Shape (N,).
        steps: Training steps.
        rate: Highest learning rate.
        batch: Images a step.
        dropout: Share of captions replaced by the empty prompt.

    Returns:
        The exponential moving average of the weights.
    """
    embeds, pooled = prompts
    average = copy.deepcopy(transformer).requires_grad_(False)
    optimizer = torch.optim.AdamW(transformer.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * min(step / steps, 1))))
    )
    progress = trange(steps, desc=f"transformer, {embeds.shape[1]} text tokens", mininterval=5)
    smooth = 0.0
    for step in progress:
        rows = torch.randint(len(labels), (batch,))
        clean = latents[torch.randint(len(latents), (batch,)), rows]
        texts = torch.where(torch.rand(batch) < dropout, len(embeds) - 1, labels[rows])
        noise = torch.randn_like(clean)
        t = (torch.randperm(batch) + torch.rand(batch)) / batch  # stratified: every batch covers [0, 1] evenly
        noisy = torch.lerp(clean, noise, t.view(-1, 1, 1, 1))
        velocity = transformer(noisy, embeds[texts], pooled[texts], 1000 * t).sample
        loss = F.mse_loss(velocity, noise - clean)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(transformer.parameters()), 1 - decay)
        smooth += (loss.item() - smooth) * max(0.01, 1 / (1 + step))
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
    return average


def train_base(pictures: Pictures, folder: Path, full_steps: int = 150, seed: int = 0) -> None:
    """Trains everything from `seed` and writes the pipeline to `folder`.

    Most of a step's cost is the 77 tokens that CLIP pads every prompt to, and behind the caption all are padding. So
    most steps run with the captions' own tokens only and `full_steps` get used to the padding.
    """
    torch.set_num_threads(2)
    pipeline = build_pipeline(seed, channels=pictures.codes.shape[1])
    train_vae(pipeline.vae, pictures.images, pictures.codes, pictures.vae_steps, pictures.batch // 4)
    torch.manual_seed(seed + 1)
    latents = torch.stack([encode(pipeline.vae, pictures.images) for _ in range(2)])
    embeds, pooled = encode_prompts(pipeline, [*pictures.captions, ""])
    caption_tokens = len(pipeline.tokenizer(pictures.captions[0]).input_ids)
    short = torch.cat([embeds[:, :caption_tokens], embeds[:, 77:]], dim=1)
    transformer = pretrain(
        pipeline.transformer, (short, pooled), latents, pictures.labels, pictures.steps, 1.5e-3, pictures.batch
    )
    transformer.requires_grad_(True)
    pipeline.transformer = pretrain(
        transformer, (embeds, pooled), latents, pictures.labels, full_steps, 5e-4, pictures.batch
    )
    save(pipeline, folder)


def save(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Writes the pipeline with the transformer's weights rounded to float16, half the size; any dtype loads it."""
    pipeline.transformer.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    pipeline.transformer.float()
    clear_paths(folder)


def main() -> None:
    """Command line: `python -m demo.train_base digits|shapes [FOLDER]`."""
    kinds = {"digits": handwritten_digits, "shapes": coloured_shapes}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", choices=kinds)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    pictures = kinds[arguments.pictures]()
    train_base(pictures, arguments.folder or pictures.folder)


if __name__ == "__main__":
    main()
