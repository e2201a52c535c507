"""How good generated digits are: Frechet distance, class agreement and diversity, judged by a small classifier."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.digits import render_digits


class Judge:
    """A classifier trained on the real digits in a few seconds; its second-to-last layer gives the features.

    It looks at 8 x 8 grey pixels, the resolution the digits were recorded at. Images are uint8, or float in [0, 1],
    shape (N, 3, 64, 64).
    """

    def __init__(self, seed: int = 0, steps: int = 1500) -> None:
        images, self.labels = render_digits()
        self.pixels = _shrink(images)
        self.classifier = _train_classifier(self.pixels, self.labels, seed, steps)
        self._real_features = self._features(self.pixels)

    def frechet(self, images: Tensor, labels: Tensor | None = None) -> float:
        """Frechet distance between the features of `images` and of all real digits, nan if any is not finite.

        `labels` is not used (the captions asked for should follow the real classes, about a tenth each).
        """
        fake = self._features(_shrink(images))
        if not np.isfinite(fake).all():
            return math.nan
        real = self._real_features
        real_covariance, fake_covariance = np.cov(real.T), np.cov(fake.T)
        root = scipy.linalg.sqrtm(real_covariance @ fake_covariance + 1e-9 * np.eye(real.shape[1])).real
        shift = ((real.mean(0) - fake.mean(0)) ** 2).sum()
        return float(shift + np.trace(real_covariance + fake_covariance - 2 * root))

    def agreement(self, images: Tensor, labels: Tensor) -> float:
        """Share of `images` that the classifier takes for the digit asked for."""
        with torch.no_grad():
            return float((self.classifier(_shrink(images)).argmax(1) == labels).float().mean())

    def diversity(self, images: Tensor, labels: Tensor) -> float:
        """Mean distance of two pictures of the same digit, as a share of that among real digits (1 is ideal)."""
        return _mean_distance(_shrink(images), labels) / _mean_distance(self.pixels, self.labels)

    def report(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """All three figures."""
        return {
            "frechet": self.frechet(images, labels),
            "agreement": self.agreement(images, labels),
            "diversity": self.diversity(images, labels),
        }

    def _features(self, pixels: Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.classifier[:-1](pixels).double().numpy()


def _train_classifier(pixels: Tensor, labels: Tensor, seed: int, steps: int) -> nn.Sequential:
    """A perceptron 64-128-64-10, its input slightly noisy; Adam 1e-3, batch 128."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
        for _ in range(steps):
            rows = torch.randint(len(pixels), (128,))
            noisy = pixels[rows] + 0.05 * torch.randn(128, 64)
            loss = F.cross_entropy(classifier(noisy), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.requires_grad_(False)


def _shrink(images: Tensor) -> Tensor:
    """Grey pixels in [-1, 1], shape (N, 64)."""
    unit = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return F.adaptive_avg_pool2d(unit.mean(1, keepdim=True), 8).flatten(1) * 2 - 1


def _mean_distance(pixels: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the mean distance between two different pictures of the class."""
    means = []
    for label in labels.unique():
        mine = pixels[labels == label]
        if len(mine) > 1:
            means.append(torch.cdist(mine, mine).sum() / (len(mine) * (len(mine) - 1)))
    return float(torch.stack(means).mean())
