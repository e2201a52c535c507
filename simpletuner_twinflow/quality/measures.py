"""Distances between two sets of samples that hold for a hundred of them, and the diversity within a prompt.

A Frechet distance with fewer samples than a few times its dimensions calls blurred samples better than real ones. The
squared maximum mean discrepancy (Gretton et al. 2012) has an unbiased estimate at any number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WIDTHS = (0.5, 1.0, 2.0)  # of the kernels, in median distances of the data
PERMUTATIONS = 200
MIN_FRECHET, DIRECTIONS = 300, 32
SAME = 1e-3  # of the samples' size: below it two are the same one


class Discrepancy(NamedTuple):
    """The squared maximum mean discrepancy of two sets."""

    value: float
    """The unbiased estimate: 0 in the mean for two sets of the same distribution, and then as often below it."""
    error: float
    """Its standard deviation where both sets have the same distribution, by permuting them."""

    @property
    def ratio(self) -> float:
        """The value in units of its error: above 3 the sets differ. It grows with their numbers of samples."""
        return self.value / self.error


def discrepancy(samples: Tensor, data: Tensor) -> Discrepancy:
    """How far samples (N, D) are from data (M, D): squared MMD by the mean of RBF kernels of `WIDTHS`.

    Raises:
        ValueError: if there are fewer than two of either.
    """
    n, m = len(samples), len(data)
    if min(n, m) < 2:
        raise ValueError(f"A discrepancy needs two samples of each set at least; got {n} and {m}.")
    pooled = torch.cat([samples, data]).double()
    squared = torch.cdist(pooled, pooled).square()
    apart = squared[n:, n:][~torch.eye(m, dtype=torch.bool, device=squared.device)]
    median = apart.median().clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-squared / (2 * width**2 * median)) for width in WIDTHS]).mean(dim=0)
    kernel.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.arange(n + m), *(torch.randperm(n + m, generator=generator) for _ in range(PERMUTATIONS))]
    member = torch.zeros(len(orders), n + m, dtype=torch.float64)
    member.scatter_(1, torch.stack(orders)[:, :n], 1.0)  # 1 where a pooled sample counts as one of the first set
    member = member.to(kernel.device)
    first, others = (member @ kernel * member).sum(1), ((1 - member) @ kernel * (1 - member)).sum(1)
    across = (member @ kernel * (1 - member)).sum(1)
    values = first / (n * (n - 1)) + others / (m * (m - 1)) - 2 * across / (n * m)
    return Discrepancy(float(values[0]), max(float(values[1:].std()), 1e-12))


def spread(x: Tensor, prompts: Tensor, among: Tensor | None = None) -> float:
    """Mean distance between samples (N, D) of the same prompt; of all samples where no prompt has two.

    Args:
        x: samples.
        prompts: a number for each one's prompt, (N,).
        among: the pairs that count, boolean (N, N), see `different`; all by default.

    Returns: the distance; NaN without a pair.
    """
    distances = torch.cdist(x.double(), x.double())
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device) if among is None else among
    same = (prompts[:, None] == prompts) & others
    return float(distances[same if same.any() else others].mean())


def different(data: Tensor) -> Tensor:
    """The pairs of samples (N, D) that are not the same one twice, as a set that is repeated has them; (N, N).

    Encoded twice, as on several processes, a picture is not the same to the last bit.
    """
    x = data.double()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") > SAME * x.norm(dim=1).mean()


class Diversity:
    """How far samples of a prompt are apart, as a share of how far the data are."""

    def __init__(self, data: Tensor, prompts: Tensor) -> None:
        """Args: data: (N, D); prompts: a number for each one's prompt, (N,)."""
        self._prompts, self._pairs = prompts, different(data)
        # Data that is one picture has no diversity to compare with.
        self._of_data = spread(data, prompts, self._pairs) if self._pairs.any() else None

    def of(self, samples: Tensor) -> float | None:
        """1 as the data; None where that has none. Args: samples: (N, D), of the data's prompts."""
        return None if self._of_data is None else spread(samples, self._prompts, self._pairs) / self._of_data


def frechet_distance(samples: Tensor, data: Tensor) -> float | None:
    """Frechet distance of samples and data (N, D) in 32 principal directions of the data; None below 300 of each."""
    if min(len(samples), len(data)) < MIN_FRECHET:
        return None
    centre = data.double().mean(dim=0)
    _, _, axes = torch.linalg.svd(data.double() - centre, full_matrices=False)
    x, y = ((each.double() - centre) @ axes[:DIRECTIONS].T for each in (samples, data))
    of_x, of_y = torch.cov(x.T), torch.cov(y.T)
    root = _root(of_x)
    mixed = torch.linalg.eigvalsh(root @ of_y @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + of_x.trace() + of_y.trace() - 2 * mixed)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
