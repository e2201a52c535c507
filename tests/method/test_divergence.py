"""What the adversarial branch descends, on a one-dimensional Gaussian generator where everything is known."""

import pytest
import torch
from torch import nn

from simpletuner_twinflow.method.objective import ObjectiveSettings, training_step
from simpletuner_twinflow.method.roles import Role, RoleSampler
from tests.method.oracles import GaussianFlow
from tests.method.training_step import losses_of, prepared

MEAN, STD, SAMPLES = 0.5, 0.6, 50_000
APART = {
    "too far right": (0.8, 0.6),
    "too far left": (0.2, 0.6),
    "too wide": (0.5, 0.8),
    "too narrow": (0.5, 0.45),
    "all wrong": (0.3, 0.7),
}


@pytest.fixture(autouse=True)
def one_thread():
    """For many small operations: threads that wait for each other cost far more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Fields:
    """The exact velocities of data and of generated samples; their parameters would take gradient if any flowed."""

    def __init__(self, mean, std):
        self.numbers = torch.tensor([MEAN, STD, mean, std], requires_grad=True)

    def __call__(self, x_t, t, r, sign, condition):
        assert torch.equal(t, r)
        mean, std, twin_mean, twin_std = self.numbers
        twin, real = GaussianFlow(twin_mean, twin_std), GaussianFlow(mean, std)
        return torch.where(sign[:, None] < 0, twin.velocity(x_t, t), real.velocity(x_t, t))


def rectify_gradient(mean, std, fields, samples=SAMPLES):
    """The gradient of the rectify term alone by the mean and width of the generator x_hat = std z + mean."""
    roles = (Role.one_step,) * samples
    z = torch.randn(samples, 1)
    rows = prepared(roles, data=(torch.randn(samples, 1), z, torch.rand(samples)))
    generator = torch.tensor([mean, std], requires_grad=True)
    gradients = []
    for weight in (1.0, 0.0):
        options = ObjectiveSettings(
            adversarial_enabled=True, rectify_weight=weight, enhanced_ratio=0.0, estimate_order=1
        )
        prediction = rows.x_t - (generator[1] * z + generator[0])
        total = losses_of(rows, prediction, options, student=fields, teacher=lambda x, *_: x).total
        gradients.append(torch.autograd.grad(total, generator)[0])
    return gradients[0] - gradients[1]


def divergence_gradient(mean, std):
    """The gradient of the mean over t of w(t) KL(generated || data), both noised to t, with w = 2 t / (1 - t)^2.

    The velocities differ by -t / (1 - t) times the difference of the scores, which is where the weight comes from.
    """
    t = ((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]
    generator = torch.tensor([mean, std], dtype=torch.float64, requires_grad=True)
    real, made = ((1 - t) ** 2 * s**2 + t**2 for s in (STD, generator[1]))
    gap = (1 - t) * (generator[0] - MEAN)
    kl = 0.5 * ((real / made).log() + (made + gap**2) / real - 1)
    (gradient,) = torch.autograd.grad((2 * t / (1 - t) ** 2 * kl).mean(), generator)
    return gradient.float()


@pytest.mark.parametrize(("mean", "std"), APART.values(), ids=APART.keys())
def test_rectify_descends_the_divergence_between_generated_and_real(mean, std):
    found, expected = rectify_gradient(mean, std, Fields(mean, std)), divergence_gradient(mean, std)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)
    towards_data = torch.tensor([MEAN - mean, STD - std])
    assert (-found * towards_data).sum() > 0


def test_rectify_rests_where_generated_and_real_agree():
    assert torch.equal(rectify_gradient(MEAN, STD, Fields(MEAN, STD), samples=1000), torch.zeros(2))


def test_rectify_reaches_the_generator_and_no_gradient_flows_through_the_fields():
    fields = Fields(0.9, 0.6)
    gradient = rectify_gradient(0.9, 0.6, fields, samples=1000)
    assert gradient[0] > 0
    assert fields.numbers.grad is None


class AffineNet(nn.Module):
    """F = a x + b with a and b of the times and the sign: the form of every Gaussian flow."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))

    def forward(self, x_t, t, r, sign, condition):
        slope, shift = self.net(torch.stack([t, r, sign], dim=1)).split(1, dim=1)
        return slope * x_t + shift


@pytest.mark.parametrize("adversarial", [False, True], ids=["rcgm", "adversarial"])
def test_a_network_trained_from_nothing_makes_the_data_in_one_step(adversarial, generator):
    steps, rate, rows = 600, 4e-3, 128
    options = ObjectiveSettings(adversarial_enabled=adversarial, rectify_weight=0.5, enhanced_ratio=0.0)
    sampler, net, flow = RoleSampler(options.roles(), seed=0, rank=0), AffineNet(), GaussianFlow(mean=1.0, std=0.4)
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        x, z, t = 1.0 + 0.4 * torch.randn(rows, 1), torch.randn(rows, 1), torch.rand(rows)
        loss = training_step(x, z, t, sampler.sample(rows, step, rows), options, net, net, generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z, ones = torch.randn(5000, 1), torch.ones(5000)
    with torch.no_grad():
        made = z - net(z, ones, 0 * ones, ones, None)
    assert (made - flow.flow_map(z, ones, 0 * ones)).square().mean().sqrt() < 0.2
    assert made.mean() == pytest.approx(1.0, abs=0.15)
    assert made.std() == pytest.approx(0.4, abs=0.1)
