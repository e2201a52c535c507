"""What the tiny SD3 is fine-tuned on, and how pictures that it draws are judged."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from simpletuner_twinflow.quality.features import Scale, random_features
from simpletuner_twinflow.quality.measures import discrepancy, spread
from testbed import digits, shapes
from testbed.judge import Judge, picture_judge
from testbed.side_by_side import DEMO_BASE
from testbed.trainer import ROOT

Scores = dict[str, float]
COUNT = 2000  # shapes to train on
SET = 200  # pictures that are compared with as many real ones at a time, as in the demo


@dataclass(frozen=True)
class Problem:
    """Pictures with captions, and a base that has seen some like them."""

    images: str
    """The name of their folder."""
    base: Path
    captions: tuple[str, ...]
    write: Callable[[Path], None]
    """Makes that folder."""
    judge: Callable[[], Callable[[Tensor, Tensor], Scores]]
    """Makes what judges pictures, float in [0, 1], (N, 3, 64, 64), drawn for captions (N,)."""

    def asked(self, samples: int) -> Tensor:
        """Every caption as often, (samples,)."""
        return torch.arange(len(self.captions)).repeat(samples // len(self.captions))


def digits_judge(target: Tensor | None = None) -> Callable[[Tensor, Tensor], Scores]:
    """Frechet distance to the real digits ("real"), and how often a classifier sees the digit asked for.

    Args: target: pictures to come near to beside these ("target"), uint8 (N, 3, 64, 64).
    """
    judge: Judge = picture_judge()

    def judged(images: Tensor, labels: Tensor) -> Scores:
        found = {"real": judge.frechet(images), "agreement": judge.agreement(images, labels)}
        return found if target is None else found | {"target": judge.between(target, images)}

    return judged


def shapes_judge() -> Callable[[Tensor, Tensor], Scores]:
    """Distance to real shapes by sets of `SET` ("real"), and the spread within a prompt as a share of theirs."""
    images, prompts = shapes.render_shapes(SET, seed=2)
    scale = Scale.of(images.float() / 255)
    real = scale(images.float() / 255)
    features, real_spread = random_features(real), spread(real.flatten(1), prompts)

    def judged(drawn: Tensor, labels: Tensor) -> Scores:
        sets = [scale(part) for part in drawn.split(SET)]
        return {
            "real": statistics.mean(discrepancy(random_features(part), features).ratio for part in sets),
            "spread": spread(torch.cat(sets).flatten(1), labels) / real_spread,
        }

    return judged


DIGITS = Problem("digits", DEMO_BASE, tuple(digits.CAPTIONS), digits.write_digits, digits_judge)
SHAPES = Problem(
    "shapes",
    ROOT / "demo/shapes_base",
    tuple(shapes.CAPTIONS),
    lambda folder: shapes.write_shapes(folder, COUNT),
    shapes_judge,
)
