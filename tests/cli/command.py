"""The command on the demo's tiny pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

from simpletuner_twinflow.cli import main

BASE = Path(__file__).parents[2] / "demo/base"
SIZE = ("--height", "64", "--width", "64", "--max-sequence-length", "8")
THREE = "a handwritten digit 3"
PICTURE = "00-a-handwritten-digit-3-seed0.png"


def sample(folder, *arguments: str) -> int:
    return main(["sample", "--pipeline", str(BASE), *SIZE, "--output", str(folder), *arguments])


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))
