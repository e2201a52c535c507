"""t, r and sign reach every family's network, and the empty prompt takes the place of every embedding."""

from unittest.mock import patch

import pytest
import torch

from simpletuner_twinflow import TwinFlowConfigError
from simpletuner_twinflow.host.training.ace_step import VELOCITY
from simpletuner_twinflow.host.training.time_conditioning import TimeConditionedClass
from simpletuner_twinflow.method.objective import PromptRows
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import PROMPTS, host_batch, host_model
from testbed.host_models.oracle import is_empty_prompt, named, tensors
from testbed.host_models.zoo import ZOO
from tests.host.steps import velocity

families = pytest.mark.parametrize("family", ZOO)
TAKE_TURNS = ("ideogram", "mageflow", "omnigen")  # whose empty prompt does not fit beside others in a batch
TIME_CONDITIONING = ("time_sign_embed", "twinflow_")


def trained(adapter, batch):
    """One step of the conditioning alone, on both signs."""
    weights = [weight for module in adapter.time_conditioning_modules().values() for weight in module.parameters()]
    optimizer = torch.optim.Adam(weights, lr=0.05)
    (velocity(adapter, batch, 0.8, 0.4, -1).square().mean() + velocity(adapter, batch, 0.8, 0.4).mean()).backward()
    optimizer.step()


def received(model, batch):
    """What the network is given in a pass on this batch, by name."""
    calls, real = [], model.model.forward

    def forward(*args, **kwargs):
        calls.append(named(real, args, kwargs))
        return real(*args, **kwargs)

    with patch.object(model.model, "forward", forward), torch.no_grad():
        model.model_predict(prepared_batch=dict(batch))
    if len(calls) == 1:
        return calls[0]
    return {name: joined([call[name] for call in calls]) for name in calls[0]}  # a sample a pass


def joined(values):
    """The samples' values of one input, as a batch where they have one shape."""
    same = all(isinstance(value, torch.Tensor) and value.shape == values[0].shape for value in values)
    return torch.stack(values) if same else values


@families
@torch.no_grad()
def test_untrained_conditioning_leaves_the_pretrained_network_as_it_is(family, folder):
    plain = host_model(family, folder, twinflow_enabled=False)
    batch = host_batch(plain)
    expected = plain.model_predict(prepared_batch=dict(batch))["model_prediction"].float()
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    t = adapter.sigma(batch)
    target = t if ZOO[family].own_target_time else t / 2  # the host asks a network that knows one at its time
    there = adapter.at(batch, batch["noisy_latents"], t, target, -torch.ones_like(t))
    hosts = batch["timesteps"].float()
    asked = 1000 - hosts if adapter.family.trained_backwards else hosts
    if not ZOO[family].thousandths_in_batch:
        asked = hosts / 1000
    torch.testing.assert_close(there["timesteps"].float(), asked, rtol=1e-5, atol=0)
    there["timesteps"] = batch["timesteps"]
    there.pop(VELOCITY, None)  # as the host itself asks
    assert torch.equal(adapter.model.model_predict(prepared_batch=dict(there))["model_prediction"].float(), expected)


@families
def test_time_target_time_and_sign_reach_the_network(family, folder):
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    before = velocity(adapter, batch, 0.8, 0.0).detach()
    trained(adapter, batch)
    with torch.no_grad():
        here = velocity(adapter, batch, 0.8, 0.4)
        changes = {
            "t": velocity(adapter, batch, 0.6, 0.4),
            "r": velocity(adapter, batch, 0.8, 0.2),
            "sign": velocity(adapter, batch, 0.8, 0.4, -1),
        }
        for name, changed in changes.items():
            assert (changed - here).flatten(1).abs().amax(dim=1).min() > 1e-4, name
        assert torch.equal(velocity(adapter, batch, 0.8, 0.0), before), "r = 0 on positive time is the network's own"


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.own_target_time])
def test_network_that_knows_a_target_time_is_given_that_of_each_row(family, folder):
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    t, r = torch.tensor([0.9, 0.7, 0.5, 1.0]), torch.tensor([0.0, 0.3, 0.5, 0.25])
    given = received(model, adapter.at(batch, batch["noisy_latents"], t, r, torch.ones_like(t)))
    torch.testing.assert_close(given[ZOO[family].own_target_time].flatten(), r)
    there = received(model, adapter.at_own_times(batch))
    torch.testing.assert_close(there[ZOO[family].own_target_time].flatten(), adapter.sigma(batch), rtol=1e-5, atol=0)


@families
def test_each_row_has_times_of_its_own(family, folder):
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    trained(adapter, batch)
    t, r = torch.tensor([0.9, 0.7, 0.5, 0.3]), torch.tensor([0.0, 0.3, 0.5, 0.1])
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])
    predict, rows = adapter.predict_with(batch), (3, 1)
    x = batch["noisy_latents"].float()
    together = predict(x, t, r, sign, PromptRows((0, 1, 2, 3)))
    apart = predict(x[[3, 1]], t[[3, 1]], r[[3, 1]], sign[[3, 1]], PromptRows(rows))
    torch.testing.assert_close(apart, together[[3, 1]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.checkpointing])
def test_gradients_of_the_conditioning_are_the_same_with_gradient_checkpointing(family, folder):
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    trained(adapter, batch)
    model.model.train()

    def gradients():
        model.model.zero_grad()
        prediction = velocity(adapter, batch, 0.8, 0.4, -1)
        with torch.no_grad():
            velocity(adapter, batch, 0.5, 0.1)  # a teacher's pass before the backward pass
        prediction.square().mean().backward()
        return {
            f"{name}.{key}": weight.grad
            for name, module in adapter.time_conditioning_modules().items()
            for key, weight in module.named_parameters()
        }

    expected = gradients()
    model.model.enable_gradient_checkpointing()
    found = gradients()
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.made_anew])
def test_network_made_anew_from_its_configuration_has_the_same_parameters(family, folder):
    """The host fills such a network with the averaged weights, one by one and in order, to save them."""
    model = host_model(family, folder)
    adapter = family_model_of(model)
    anew = TimeConditionedClass(type(model.model), adapter.family).from_config(model.model.config)
    shapes = [[(name, weight.shape) for name, weight in network.named_parameters()] for network in (anew, model.model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("family", ["sd3", "flux", "chroma", "wan"])
def test_compiled_network_is_conditioned_too(family, folder):
    """The hook is part of the graph: its times are inputs, not constants of the first call."""
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch = host_batch(model)
    trained(adapter, batch)
    with torch.no_grad():
        expected = [velocity(adapter, batch, *times) for times in ((0.8, 0.4, 1), (0.8, 0.2, -1), (0.5, 0.0, 1))]
        model.model.forward = torch.compile(model.model.forward, backend="eager")
        found = [velocity(adapter, batch, *times) for times in ((0.8, 0.4, 1), (0.8, 0.2, -1), (0.5, 0.0, 1))]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.signed_time])
def test_signed_time_is_one_negative_or_positive_timestep(family, folder):
    model = host_model(family, folder, twinflow_time_conditioning="signed_time")
    adapter = family_model_of(model)
    batch = host_batch(model)
    assert adapter.time_conditioning_modules() == {}
    assert not [name for name, _ in model.model.named_parameters() if any(part in name for part in TIME_CONDITIONING)]
    t, r = torch.tensor([0.9, 0.7, 0.5, 1.0]), torch.tensor([0.0, 0.3, 0.5, 0.0])
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0])
    given = received(model, adapter.at(batch, batch["noisy_latents"], t, r, sign))
    tiny = ZOO[family]
    token = -1 if tiny.clean_first else 0
    time = tiny.time(given[tiny.timestep].float().reshape(len(t), -1)[:, token])
    torch.testing.assert_close(time, sign * (t - r / 2), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert (velocity(adapter, batch, 0.8, 0.4) - velocity(adapter, batch, 0.8, 0.4, -1)).abs().max() > 1e-4
        assert (velocity(adapter, batch, 0.8, 0.4) - velocity(adapter, batch, 0.8, 0.2)).abs().max() > 1e-4


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.untimed])
@torch.no_grad()
def test_without_time_conditioning_only_the_time_reaches_the_network(family, folder):
    off = {"twinflow_time_conditioning": "none", "twinflow_adversarial_enabled": False}
    model = host_model(family, folder, **off)
    adapter = family_model_of(model)
    batch = host_batch(model)
    assert adapter.time_conditioning_modules() == {}
    assert torch.equal(velocity(adapter, batch, 0.8, 0.4), velocity(adapter, batch, 0.8, 0.0))
    moved = (velocity(adapter, batch, 0.8, 0.4) - velocity(adapter, batch, 0.6, 0.4)).abs().max()
    assert moved == 0 if ZOO[family].ignores_time else moved > 1e-4


def test_no_time_conditioning_with_the_adversarial_branch_is_refused(folder):
    with pytest.raises(TwinFlowConfigError, match=r'twinflow_time_conditioning is "none".*training_only'):
        host_model("sd3", folder, twinflow_time_conditioning="none")


@families
def test_empty_prompt_takes_the_place_of_every_embedding(family, folder):
    """The network is given what it is given for a batch whose captions are all empty."""
    model = host_model(family, folder)
    adapter = family_model_of(model)
    batch, dropped = host_batch(model), host_batch(model, ("",) * len(PROMPTS))
    found = received(model, adapter.without_prompts(batch))
    assert is_empty_prompt(ZOO[family], found)
    assert not is_empty_prompt(ZOO[family], received(model, batch))
    if ZOO[family].empty_is_zero is None:
        torch.testing.assert_close(everything(found), everything(received(model, dropped)), rtol=0, atol=0)
    passes = adapter.predict_with(batch)
    x, t = batch["noisy_latents"].float(), adapter.sigma(batch)
    rows = tuple(range(len(PROMPTS)))
    prompted = passes(x, t, t, torch.ones_like(t), PromptRows(rows))
    unprompted = passes(x, t, t, torch.ones_like(t), PromptRows(rows, unconditional=True))
    assert (prompted - unprompted).flatten(1).abs().amax(dim=1).min() > 1e-4
    if adapter.takes_both(batch):
        x, t, both = torch.cat([x, x]), torch.cat([t, t]), PromptRows(rows + rows, half_unconditional=True)
        found = passes(x, t, t, torch.ones_like(t), both)
        torch.testing.assert_close(found, torch.cat([prompted, unprompted]), rtol=1e-4, atol=1e-5)
    else:
        assert family in TAKE_TURNS


def everything(given):
    """What a network is given, masks included, without names that hold no tensor."""
    return {name: list(tensors(value)) or value for name, value in given.items() if not isinstance(value, bool)}
