"""A complete Stable Diffusion XL pipeline folder at toy size, with random weights, for runs of the real host."""

from pathlib import Path
from typing import Any

import torch

from testbed.pipelines.diffusion import sdxl


def write_sdxl(folder: Path, **schedule: Any) -> Path:
    """A Stable Diffusion XL pipeline. Args: schedule: of its scheduler, beside SDXL's betas; epsilon by default."""
    torch.manual_seed(0)
    sdxl(**schedule).save_pretrained(folder)
    return folder
