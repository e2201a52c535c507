"""The modules that carry target time and sign, and the hook that adds their terms to a time embedding."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from simpletuner_twinflow.errors import TwinFlowError
from simpletuner_twinflow.method.time_conditioning import (
    NegativeTimeEmbedding,
    TargetTimeEmbedding,
    TimeConditioning,
    sinusoidal_features,
)

T, R, SIGN = torch.tensor([0.9, 0.6]), torch.tensor([0.3, 0.6]), torch.tensor([1.0, -1.0])


class Network(nn.Module):
    """A network that is its time embedding, and owns the modules."""

    def __init__(self, *, negative: bool = True, rows_first: bool = False) -> None:
        super().__init__()
        self.time = nn.Identity()
        self.target, self.negative = TargetTimeEmbedding(4), NegativeTimeEmbedding(4)
        for weight in self.parameters():
            nn.init.normal_(weight)
        self.conditioning = TimeConditioning(
            self.time,
            self,
            target_time="target",
            negative_time="negative" if negative else None,
            rows_first=rows_first,
        )

    def term(self) -> torch.Tensor:
        return self.target(T, R) + self.negative(SIGN)


def test_modules_start_from_the_pretrained_network():
    assert not TargetTimeEmbedding(4)(T, R).any()
    assert not NegativeTimeEmbedding(4)(SIGN).any()


def test_terms_vanish_where_sampling_goes():
    network = Network()
    assert not network.target(T, torch.zeros(2)).any()
    assert not network.negative(torch.ones(2)).any()
    assert network.term().abs().amax(dim=1).min() > 0


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4), (2, 3, 5, 4)], ids=str)
def test_term_reaches_every_token_of_its_own_row(shape):
    network, embedding = Network(), torch.randn(shape)
    with network.conditioning.times(T, R, SIGN):
        added = network.time(embedding) - embedding
    expected = network.term().reshape(2, *[1] * (len(shape) - 2), 4).expand(shape)
    torch.testing.assert_close(added, expected)


def test_tokens_of_a_flattened_embedding_follow_their_row():
    network, embedding = Network(), torch.zeros(6, 4)
    with network.conditioning.times(T, R, SIGN):
        added = network.time(embedding)
    torch.testing.assert_close(added, network.term().repeat_interleave(3, dim=0))


@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_fixed_times_after_the_rows_are_left_alone(fixed):
    network, embedding = Network(rows_first=True), torch.zeros(2 + fixed, 4)
    with network.conditioning.times(T, R, SIGN):
        added = network.time(embedding)
    torch.testing.assert_close(added[:2], network.term())
    assert not added[2:].any()


def test_embedding_that_cannot_be_told_apart_into_rows_is_an_error():
    network = Network()
    with network.conditioning.times(T, R, SIGN), pytest.raises(TwinFlowError, match=r"\(5, 4\).*2 rows"):
        network.time(torch.zeros(5, 4))


def test_nothing_is_added_outside_of_a_pass_of_ours_or_after_one():
    network, embedding = Network(), torch.randn(2, 4)
    with network.conditioning.times(T, R, SIGN):
        with network.conditioning.times(T, torch.zeros(2), torch.ones(2)):
            assert torch.equal(network.time(embedding), embedding)
        assert not torch.equal(network.time(embedding), embedding)
    assert torch.equal(network.time(embedding), embedding)


def test_sign_takes_another_way_where_the_network_has_one():
    network, embedding = Network(negative=False), torch.zeros(2, 4)
    with network.conditioning.times(T, R, SIGN):
        torch.testing.assert_close(network.time(embedding), network.target(T, R))


def test_target_time_is_told_apart_by_how_far_there_is_to_go():
    """r E(t - r): divided by r it is the same wherever the jump lies, and another for another jump."""
    network = Network()
    t, r = torch.tensor([0.9, 0.7, 0.5, 0.9]), torch.tensor([0.5, 0.3, 0.1, 0.1])  # the last goes twice as far
    embedding = network.target(t, r) / r[:, None]
    torch.testing.assert_close(embedding[0], embedding[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(embedding[0], embedding[2], rtol=1e-3, atol=1e-3)
    assert (embedding[0] - embedding[3]).abs().max() > 0.1


def test_features_are_cosines_and_sines_of_a_thousand_t():
    features = sinusoidal_features(torch.tensor([0.0, 0.25]))
    assert features.shape == (2, 256)
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    # The frequencies fall from 1 by a factor of 10,000 over their number.
    for place, frequency in ((0, 1.0), (64, 0.01), (96, 0.001)):
        torch.testing.assert_close(features[1, place], torch.tensor(250 * frequency).cos(), rtol=0, atol=1e-4)
        torch.testing.assert_close(features[1, 128 + place], torch.tensor(250 * frequency).sin(), rtol=0, atol=1e-4)


def test_embedding_is_a_network_of_one_hidden_layer():
    """Not a linear map of the features, which could not tell jumps of two lengths from their mean."""
    module = Network().target
    with torch.no_grad():
        for bias in (module.linear_1.bias, module.linear_2.bias):
            bias.zero_()
    one = module(torch.tensor([0.9]), torch.tensor([0.5]))
    with torch.no_grad():
        module.linear_1.weight.neg_()
    assert (module(torch.tensor([0.9]), torch.tensor([0.5])) + one).abs().max() > 0.1  # SiLU is not odd


@pytest.mark.parametrize("reentrant", [False, True])
def test_pass_that_checkpointing_computes_again_in_the_backward_pass_is_conditioned_as_it_was(reentrant):
    network, head = Network(), nn.Linear(4, 3)
    embedding = torch.randn(2, 4, requires_grad=True)
    seen = []

    def body(x):
        found = network.time(x)
        seen.append(found.detach())
        return torch.tanh(head(found))

    def gradients(run):
        network.zero_grad()
        with network.conditioning.times(T, R, SIGN):
            loss = run(embedding).square().sum()
        # Between the passes the network draws: outside of a pass and of a backward pass nothing is added.
        assert torch.equal(network.time(embedding), embedding)
        with torch.no_grad(), network.conditioning.times(T / 2, R / 2, -SIGN):
            network.time(embedding)  # the teacher's pass, which is never computed again
        loss.backward()
        return [weight.grad.clone() for weight in network.parameters()]

    plain = gradients(body)
    seen.clear()
    again = gradients(lambda x: checkpoint(body, x, use_reentrant=reentrant))
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], seen[0])
    torch.testing.assert_close(again, plain)
    assert all(gradient.abs().max() > 0 for gradient in plain)
    assert torch.equal(network.time(embedding), embedding)


def test_term_is_added_in_the_dtype_of_the_embedding():
    network = Network()
    with network.conditioning.times(T, R, SIGN):
        assert network.time(torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_sign_of_a_time_is_negative_below_zero_only():
    network = Network()
    assert not network.negative(torch.tensor([0.0, 1.0])).any()
    assert network.negative(torch.tensor([-1.0])).abs().max() > 0


def test_compiled_network_is_one_graph_with_the_hook_in_it():
    network, embedding = Network(), torch.randn(2, 4)
    compiled = torch.compile(network.time, backend="eager", fullgraph=True)  # raises where the graph would break
    assert torch.equal(compiled(embedding), embedding)
    with network.conditioning.times(T, R, SIGN):
        torch.testing.assert_close(compiled(embedding) - embedding, network.term())
