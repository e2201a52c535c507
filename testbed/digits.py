"""The demo's image set: scikit-learn's 1,797 handwritten digits, drawn at 64 x 64 with a caption each."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

IMAGE_SIZE = 64
CAPTIONS = [f"a handwritten digit {digit}" for digit in range(10)]

# Bicubic enlargement alone leaves strokes as grey fog: this smooth step between two grey levels gives them an edge.
_EDGE_LOW, _EDGE_HIGH = 0.28, 0.84


def render_digits(limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws the digits white on black.

    Args:
        limit: Keep the first `limit` digits only; all 1,797 by default.

    Returns:
        Images, uint8, shape (N, 3, 64, 64), and their labels 0 to 9, int64, shape (N,).
    """
    digits = load_digits()
    grey = torch.from_numpy(digits.data[:limit].astype(np.float32) / 16).view(-1, 1, 8, 8)
    enlarged = F.interpolate(grey, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    ramp = ((enlarged - _EDGE_LOW) / (_EDGE_HIGH - _EDGE_LOW)).clamp(0, 1)
    edged = ramp * ramp * (3 - 2 * ramp)
    images = (255 * edged).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return images, torch.from_numpy(digits.target[:limit].astype(np.int64))


def write_digits(folder: str | Path, limit: int | None = None) -> int:
    """Writes `NNNN.png` and its caption `NNNN.txt` for every digit; returns how many.

    Args:
        folder: Made if missing.
        limit: Write the first `limit` digits only.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = render_digits(limit)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:04d}.png")
        (folder / f"{index:04d}.txt").write_text(CAPTIONS[int(label)] + "\n")
    return len(images)


def main() -> None:
    """Command line: `python -m testbed.digits FOLDER [--limit N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()
    print(f"{write_digits(arguments.folder, arguments.limit)} digits in {arguments.folder}")


if __name__ == "__main__":
    main()
