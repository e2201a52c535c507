"""The demo's image set: shapes on black, 64 x 64, of any colour, in any place and of any size.

A prompt names the kind alone, so that it has many answers, which is where one step of a plain flow model shows their
mean.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

IMAGE_SIZE = 64
KINDS = ("circle", "square", "diamond", "cross", "ring")
RADII = (13.0, 20.0)  # pixels
CAPTIONS = [f"a {kind}" for kind in KINDS]
EDGE = 1.5  # pixels over which a shape fades into the ground


def render_shapes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Shapes of every caption as often, in turn.

    Args:
        count: N.
        seed: of colours, places and sizes.

    Returns:
        Images, uint8, shape (N, 3, 64, 64), and the rows of their captions, int64, shape (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CAPTIONS)
    radius = RADII[0] + (RADII[1] - RADII[0]) * torch.rand(count, generator=generator)
    places = 1.15 * radius + torch.rand(2, count, generator=generator) * (IMAGE_SIZE - 1 - 2.3 * radius)
    hues = torch.rand(count, 1, generator=generator) + torch.tensor([0, 1 / 3, 2 / 3])
    colours = 0.5 + 0.5 * torch.cos(2 * math.pi * hues)
    y, x = (torch.arange(IMAGE_SIZE).float().view(shape) for shape in ((1, -1, 1), (1, 1, -1)))
    dx, dy = ((axis - place.view(-1, 1, 1)).abs() for axis, place in zip((x, y), places, strict=True))
    outside = _distances(dx, dy, radius.view(-1, 1, 1))[labels, torch.arange(count)]
    cover = (0.5 - outside / EDGE).clamp(0, 1)
    return (255 * cover.unsqueeze(1) * colours.view(-1, 3, 1, 1)).round().to(torch.uint8), labels


def _distances(dx: Tensor, dy: Tensor, r: Tensor) -> Tensor:
    """How far each pixel is outside each kind of shape, (5, N, 64, 64), in pixels; negative inside."""
    far = (dx.square() + dy.square()).sqrt()
    arm = torch.maximum(torch.minimum(dx, dy) - 0.3 * r, torch.maximum(dx, dy) - r)
    ring = (far - 0.75 * r).abs() - 0.25 * r
    return torch.stack([far - r, torch.maximum(dx, dy) - 0.85 * r, (dx + dy - 1.2 * r) / math.sqrt(2), arm, ring])


def write_shapes(folder: str | Path, count: int, seed: int = 0) -> None:
    """Writes `NNNN.png` and its caption `NNNN.txt` for each of `count` shapes; the folder is made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(*render_shapes(count, seed), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:04d}.png")
        (folder / f"{index:04d}.txt").write_text(CAPTIONS[int(label)] + "\n")


def main() -> None:
    """Command line: `python -m testbed.shapes FOLDER [--count N]`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    write_shapes(arguments.folder, arguments.count)


if __name__ == "__main__":
    main()
