"""A set of short films of handwritten digits, each of which goes to the right."""

from pathlib import Path

import imageio.v2 as imageio
import torch

from testbed.digits import CAPTIONS, render_digits
from testbed.trainer import FRAMES

RATE = 24  # frames a second
STEP = 3  # pixels from frame to frame


def write_clips(folder: Path, limit: int = 12) -> int:
    """Write `NNNN.mp4` and its caption `NNNN.txt` for each film; returns how many. Args: folder: made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(*render_digits(limit), strict=True)):
        frames = [torch.roll(image, STEP * frame, dims=2).permute(1, 2, 0).numpy() for frame in range(FRAMES)]
        imageio.mimwrite(folder / f"{number:04d}.mp4", frames, fps=RATE, macro_block_size=1)
        (folder / f"{number:04d}.txt").write_text(f"{CAPTIONS[int(label)]}\n", encoding="utf-8")
    return limit


def write_first_frame(file: Path) -> None:
    """Write the picture that the first film begins with."""
    imageio.imwrite(file, render_digits(1)[0][0].permute(1, 2, 0).numpy())
