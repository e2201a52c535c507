"""The measures hold what they promise: unbiased at any number, and what makes samples worse is seen."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from simpletuner_twinflow.quality.features import FEATURES, Scale, random_features
from simpletuner_twinflow.quality.measures import Diversity, different, discrepancy, frechet_distance, spread
from testbed.judge import frechet_distance as reference_frechet


def digits():
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)


IMAGES, LABELS = digits()
SCALE = Scale.of(IMAGES)


def drawn(count, seed):
    """Two disjoint sets of so many digits with their labels."""
    order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(seed))
    one, other = order[:count], order[count : 2 * count]
    return (IMAGES[one], LABELS[one]), (IMAGES[other], LABELS[other])


def blurred(x, y):
    """Each a fifth of the way nearer to the mean of its class: what a bad one-step model draws."""
    means = torch.stack([IMAGES[label == LABELS].mean(dim=0) for label in range(10)])
    return 0.8 * x + 0.2 * means[y]


def noisy(x, y):
    return x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def without_two_classes(x, y):
    """As many samples, of eight classes."""
    kept = x[(y != 3) & (y != 8)]
    return kept[torch.arange(len(x)) % len(kept)]


def seen(change, count, seed):
    (x, y), (data, _) = drawn(count, seed)
    return discrepancy(random_features(SCALE(change(x, y))), random_features(SCALE(data))).ratio


@pytest.mark.parametrize(("count", "least"), [(100, 1.5), (300, 4.0)])
@pytest.mark.parametrize("change", [blurred, noisy])
def test_what_makes_samples_worse_is_seen_in_standard_errors(change, count, least):
    plain = [seen(lambda x, y: x, count, seed) for seed in range(8)]
    changed = [seen(change, count, seed) for seed in range(8)]
    assert sum(changed) / 8 > least
    assert all(worse > same for worse, same in zip(changed, plain, strict=True))


def test_missing_prompts_are_seen():
    changed = [seen(without_two_classes, 300, seed) for seed in range(8)]
    plain = [seen(lambda x, y: x, 300, seed) for seed in range(8)]
    assert sum(changed) / 8 > 2
    assert sum(worse > same for worse, same in zip(changed, plain, strict=True)) >= 7


def test_estimate_is_unbiased_and_its_error_is_the_one_it_has():
    """40 pairs of sets of the same distribution, 30 samples each."""
    generator = torch.Generator().manual_seed(0)
    found = [
        discrepancy(torch.randn(30, 5, generator=generator), torch.randn(30, 5, generator=generator)) for _ in range(40)
    ]
    values = torch.tensor([each.value for each in found])
    error = torch.tensor([each.error for each in found]).mean()
    assert abs(values.mean()) < 3 * error / math.sqrt(40)
    assert (values < 0).any()
    torch.testing.assert_close(values.std(), error, rtol=0.35, atol=0)


def test_discrepancy_is_the_double_sum_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator) + 1

    def squared(a, b):
        return float((a - b).double().square().sum())

    pairs = sorted(squared(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    median = pairs[(len(pairs) - 1) // 2]

    def kernel(a, b):
        return sum(math.exp(-squared(a, b) / (2 * width**2 * median)) for width in (0.5, 1.0, 2.0)) / 3

    within_x = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (4 * 3)
    within_y = sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (5 * 4)
    across = sum(kernel(a, b) for a in x for b in y) / (4 * 5)
    assert discrepancy(x, y).value == pytest.approx(within_x + within_y - 2 * across, rel=1e-6)


def test_samples_of_one_picture_are_as_far_whether_near_or_not():
    data = torch.zeros(8, 4) + torch.arange(4.0)
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    near, far = (discrepancy(data + scale * noise, data) for scale in (1e-2, 1.0))
    assert near == far


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="two samples of each"):
        discrepancy(torch.zeros(1, 3), torch.zeros(5, 3))


def test_equal_samples_of_a_prompt_have_no_spread_and_more_of_it_is_a_larger_share():
    x, prompts = torch.tensor([[0.0], [0.0], [5.0], [5.0]]), torch.tensor([1, 1, 2, 2])
    assert spread(x, prompts) == 0
    assert spread(x + torch.tensor([[0.0], [1.0], [0.0], [3.0]]), prompts) == pytest.approx(2.0)
    assert spread(x, torch.arange(4)) == pytest.approx(5 * 8 / 12)  # no prompt twice: of all pairs


def test_a_set_that_is_repeated_is_as_diverse_as_it_is():
    """Each picture twice with a caption of its own: a caption's two are the same picture, which says nothing."""
    pictures, captions = torch.tensor([[0.0], [3.0], [9.0]]), torch.arange(3)
    repeated, named = pictures.repeat(2, 1), captions.repeat(2)
    assert spread(repeated, named) == 0
    assert spread(repeated, named, different(repeated)) == spread(pictures, captions) == pytest.approx(6)
    assert not different(pictures[1:2].repeat(4, 1)).any()
    encoded_twice = torch.cat([pictures, pictures + torch.tensor([[0.0], [1e-6], [-1e-5]])])
    assert different(encoded_twice).equal(different(repeated))
    assert not different(pictures[1:2] + torch.tensor([[0.0], [1e-6], [2e-6]])).any()
    # Other samples of the same captions: 0, 3 and 9 again, and 4 further off, of which a caption's two do not count.
    samples = repeated + torch.tensor([[0.0]] * 3 + [[4.0]] * 3)
    apart = [abs(float(samples[i] - samples[j])) for i in range(6) for j in range(6) if i % 3 != j % 3]
    assert Diversity(repeated, named).of(samples) == pytest.approx(sum(apart) / len(apart) / 6)
    assert Diversity(repeated, named).of(repeated) == pytest.approx(1)
    assert Diversity(pictures[:1].repeat(4, 1), named[:4]).of(samples[:4]) is None


def test_frechet_distance_is_scipys_in_few_dimensions_and_none_with_few_samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    y = torch.randn(350, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 0.5
    assert frechet_distance(x, y) == pytest.approx(reference_frechet(y.numpy(), x.numpy()), rel=1e-4)
    assert frechet_distance(x[:299], y) is None
    assert frechet_distance(x, y[:299]) is None


@pytest.mark.parametrize("shape", [(4, 16), (4, 8, 8), (16, 5, 6), (3, 3, 8, 8), (2, 2, 2, 4, 4)], ids=str)
def test_features_are_as_many_for_every_shape_and_the_same_at_any_time(shape):
    x = torch.randn(3, *shape)
    found = random_features(x)
    assert found.shape == (3, FEATURES)
    torch.testing.assert_close(found[1:], random_features(x[1:]))
    assert torch.isfinite(found).all()
    assert (found.std(dim=0) > 0).float().mean() > 0.5


def test_scale_gives_each_channel_mean_zero_and_variance_one():
    data = torch.randn(50, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 2
    scaled = Scale.of(data)(data)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)
    assert torch.isfinite(Scale.of(torch.ones(2, 1, 3))(torch.ones(2, 1, 3))).all()
