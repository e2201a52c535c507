"""The modules that carry target time and sign, and the hook that adds their terms to a time embedding."""

import pytest
import torch
from torch import nn

from simpletuner_twinflow.conditioning import NegativeTimeEmbedding, TargetTimeEmbedding, TimeConditioning
from simpletuner_twinflow.errors import TwinFlowError

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


@pytest.mark.parametrize("fixed", [1, 2])
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
