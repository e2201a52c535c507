"""How good generated digits are: Frechet distance, class agreement and diversity, judged by a small classifier."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from testbed.digits import render_digits

PIXELS, CLASSES = 64, 10
CLASSIFIER_STEPS = 1500


class Judge:
    """Compares samples with all real digits, Frechet distances in the features of the classifier's second layer."""

    def __init__(
        self, classifier: nn.Sequential, pixels: Tensor, labels: Tensor, seen: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Args:
        classifier: trained by `fit_classifier`.
        pixels: the real digits, 8 x 8 grey pixels in [-1, 1], (N, 64).
        labels: of the real digits, 0 to 9, (N,).
        seen: makes such pixels of samples; None where the samples are such pixels.
        """
        self._classifier, self._seen = classifier.requires_grad_(False), seen or (lambda samples: samples)
        self._real = self._features(pixels)
        self._real_spread = mean_distance(pixels, labels)

    def frechet(self, samples: Tensor) -> float:
        """Frechet distance between the samples' features and those of all real digits, nan if any is not finite.

        The digits asked for should follow the real classes, about a tenth each.
        """
        return frechet_distance(self._real, self._features(self._seen(samples)))

    def between(self, a: Tensor, b: Tensor) -> float:
        """Frechet distance between two sets of samples' features, nan if any of b is not finite."""
        return frechet_distance(self._features(self._seen(a)), self._features(self._seen(b)))

    def agreement(self, samples: Tensor, labels: Tensor) -> float:
        """Share of the samples that the classifier takes for the digit asked for."""
        return float((self._classifier(self._seen(samples)).argmax(1) == labels).float().mean())

    def diversity(self, samples: Tensor, labels: Tensor) -> float:
        """Mean distance of two samples of the same digit, as a share of that among real digits (1 is ideal)."""
        return mean_distance(self._seen(samples), labels) / self._real_spread

    def _features(self, pixels: Tensor) -> np.ndarray:
        return self._classifier[:-1](pixels).double().numpy()


def picture_judge(seed: int = 0, steps: int = CLASSIFIER_STEPS) -> Judge:
    """A judge of pictures, uint8 or float in [0, 1], (N, 3, 64, 64); its classifier is trained in a few seconds."""
    images, labels = render_digits()
    pixels = grey_pixels(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = new_classifier()
        fit_classifier(classifier, pixels, labels, steps)
    return Judge(classifier, pixels, labels, grey_pixels)


def new_classifier() -> nn.Sequential:
    """A perceptron 64-128-64-10."""
    return nn.Sequential(nn.Linear(PIXELS, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def fit_classifier(classifier: nn.Sequential, pixels: Tensor, labels: Tensor, steps: int = CLASSIFIER_STEPS) -> None:
    """Train it on the real digits, its input slightly noisy; Adam 1e-3, batch 128, numbers of torch's own stream."""
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (128,))
        noisy = pixels[rows] + 0.05 * torch.randn(128, PIXELS)
        loss = F.cross_entropy(classifier(noisy), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between the Gaussians that have the moments of a (N, D) and b (M, D); nan if b is not finite."""
    if not np.isfinite(b).all():
        return math.nan
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b + 1e-9 * np.eye(len(cov_a))).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def mean_distance(x: Tensor, y: Tensor) -> float:
    """Mean over the classes of the mean distance between two different members: x (N, 64), y (N,)."""
    groups = [x[y == label] for label in y.unique()]
    return sum(float(torch.pdist(group).mean()) for group in groups) / len(groups)


def grey_pixels(images: Tensor) -> Tensor:
    """Pictures as the digits were recorded: 8 x 8 grey pixels in [-1, 1], (N, 64)."""
    unit = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return F.adaptive_avg_pool2d(unit.mean(1, keepdim=True), 8).flatten(1) * 2 - 1
