import random
from collections import Counter

import numpy
import pytest
import torch

from simpletuner_twinflow.errors import TwinFlowConfigError, TwinFlowError
from simpletuner_twinflow.method.objective import ObjectiveSettings
from simpletuner_twinflow.method.roles import Role, RoleSampler

QUARTERS = dict.fromkeys((Role.one_step, Role.near, Role.any_step, Role.twin), 0.25)
THIRDS = dict.fromkeys((Role.one_step, Role.near, Role.any_step), 1 / 3)
DEFAULT = ObjectiveSettings(adversarial_enabled=False).roles()
UNEVEN = {Role.one_step: 0.1, Role.near: 0.2, Role.any_step: 0.3, Role.twin: 0.4}
shares = pytest.mark.parametrize(
    "shares", [QUARTERS, THIRDS, DEFAULT, UNEVEN], ids=["quarters", "thirds", "default", "tenths"]
)


def window(sampler, batch_size, accumulation, index=0):
    """The roles of one optimizer step, micro-batch by micro-batch."""
    return [sampler.sample(batch_size, index, batch_size * accumulation) for _ in range(accumulation)]


def flat(micro_batches):
    return [role for roles in micro_batches for role in roles]


@shares
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 7])
def test_a_window_of_any_size_holds_each_role_within_one_row_of_its_share(shares, batch_size, accumulation):
    sampler = RoleSampler(shares, seed=3, rank=0)
    for index in range(20):
        roles = window(sampler, batch_size, accumulation, index)
        assert [len(micro_batch) for micro_batch in roles] == [batch_size] * accumulation
        counts = Counter(flat(roles))
        for role in Role:
            assert abs(counts[role] - shares.get(role, 0) * batch_size * accumulation) < 1


@pytest.mark.parametrize(
    ("shares", "rows"), [(QUARTERS, 4), (QUARTERS, 12), (THIRDS, 3), (THIRDS, 6), (DEFAULT, 4), (UNEVEN, 10)], ids=str
)
def test_a_window_that_divides_holds_each_share_exactly(shares, rows):
    sampler = RoleSampler(shares, seed=0, rank=0)
    for index in range(300):
        counts = Counter(sampler.sample(rows, index, rows))
        assert counts == {role: round(share * rows) for role, share in shares.items()}


@pytest.mark.parametrize("bits", [0, 2**53 - 1], ids=["lowest", "highest"])
def test_a_share_that_divides_is_exact_whatever_is_drawn(bits, monkeypatch):
    # Ten rows times 0.1 + 0.2 is a little more than three in floating point: the highest draw would tip it over.
    class Extreme(random.Random):
        def getrandbits(self, k):
            return bits

        def shuffle(self, x):
            pass

    monkeypatch.setattr(random, "Random", Extreme)
    counts = Counter(RoleSampler(UNEVEN, seed=0, rank=0).sample(10, 0, 10))
    assert counts == {Role.one_step: 1, Role.near: 2, Role.any_step: 3, Role.twin: 4}


@shares
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_each_place_of_a_window_gets_each_role_as_often_as_its_share(shares, rows):
    sampler, windows = RoleSampler(shares, seed=1, rank=0), 3000
    sampled = [sampler.sample(rows, index, rows) for index in range(windows)]
    for place in range(rows):
        counts = Counter(roles[place] for roles in sampled)
        for role, share in shares.items():
            assert counts[role] / windows == pytest.approx(share, abs=0.04)


def test_a_rare_role_comes_as_rarely_as_its_share_says():
    sampler = RoleSampler({Role.near: 999, Role.any_step: 1}, seed=0)
    rare = sum(role == Role.any_step for index in range(5000) for role in sampler.sample(1, index, 1))
    assert 1 <= rare <= 15  # 5 are expected; a draw of too few different numbers gives 47


def test_a_role_says_nothing_about_the_next_one_beyond_the_counts():
    sampler = RoleSampler(QUARTERS, seed=1, rank=0)
    pairs = Counter(sampler.sample(4, index, 4)[:2] for index in range(6000))
    assert len(pairs) == 12  # all ordered pairs of different roles
    assert max(pairs.values()) < 1.25 * min(pairs.values())


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 8), (2, 4), (8, 1)], ids=["1x8", "2x4", "8x1"])
def test_the_roles_of_a_window_do_not_depend_on_how_it_is_cut_into_micro_batches(batch_size, accumulation):
    whole = RoleSampler(QUARTERS, seed=5, rank=0).sample(8, 9, 8)
    assert flat(window(RoleSampler(QUARTERS, seed=5, rank=0), batch_size, accumulation, 9)) == list(whole)


@shares
@pytest.mark.parametrize(("ranks", "rows"), [(2, 1), (2, 3), (4, 1), (8, 1), (3, 5), (8, 4)])
def test_a_window_over_all_ranks_holds_each_role_within_one_row_of_its_share_and_spreads_it(shares, ranks, rows):
    """8 ranks of one row never have a step without a role, and no rank has a role more than once above another."""
    samplers = [RoleSampler(shares, seed=0, rank=rank, ranks=ranks) for rank in range(ranks)]
    for index in range(30):
        own = [Counter(sampler.sample(rows, index, rows)) for sampler in samplers]
        assert all(counts.total() == rows for counts in own)
        for role, share in shares.items():
            drawn = [counts[role] for counts in own]
            assert abs(sum(drawn) - share * ranks * rows) < 1
            assert max(drawn) - min(drawn) <= 1


def test_no_rank_is_preferred_over_many_windows():
    samplers = [RoleSampler(UNEVEN, seed=1, rank=rank, ranks=4) for rank in range(4)]
    counts = [Counter(role for index in range(4000) for role in sampler.sample(1, index, 1)) for sampler in samplers]
    for own in counts:
        for role, share in UNEVEN.items():
            assert own[role] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


@pytest.mark.parametrize(("rank", "ranks"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_is_not_there_is_refused(rank, ranks):
    with pytest.raises(TwinFlowError, match=f"no rank {rank} of {ranks}"):
        RoleSampler(QUARTERS, seed=0, rank=rank, ranks=ranks)


def test_the_same_seed_samples_the_same_and_another_seed_or_rank_or_window_does_not():
    def sampled(seed, rank, first=0):
        sampler = RoleSampler(QUARTERS, seed=seed, rank=rank, ranks=12)
        return [sampler.sample(8, index, 8) for index in range(first, first + 10)]

    assert sampled(1, 0) == sampled(1, 0)
    assert sampled(1, 0) != sampled(2, 0)
    assert sampled(1, 0) != sampled(1, 1)
    assert sampled(1, 0) != sampled(1, 0, first=10)
    assert sampled(1, 11) != sampled(11, 1)


def test_a_pinned_sample_does_not_change_between_processes_or_releases():
    # Python's hash() of a string differs from process to process; a resumed run must not.
    drawn = RoleSampler(QUARTERS, seed=42, rank=0).sample(4, 7, 4)
    assert drawn == (Role.one_step, Role.near, Role.any_step, Role.twin)


def test_a_resumed_run_samples_what_the_uninterrupted_one_did():
    whole = RoleSampler(UNEVEN, seed=4, rank=2, ranks=3)
    uninterrupted = [window(whole, 2, 3, index) for index in range(12)]
    resumed = RoleSampler(UNEVEN, seed=4, rank=2, ranks=3)
    assert [window(resumed, 2, 3, index) for index in range(7, 12)] == uninterrupted[7:]


def test_a_new_window_begins_at_its_first_row_even_if_the_last_was_cut_short():
    sampler, fresh = RoleSampler(QUARTERS, seed=4, rank=0), RoleSampler(QUARTERS, seed=4, rank=0)
    sampler.sample(3, 0, 8)
    assert sampler.sample(8, 1, 8) == fresh.sample(8, 1, 8)


def test_a_window_longer_than_announced_goes_on_with_a_sample_of_its_own():
    sampler = RoleSampler(QUARTERS, seed=4, rank=0)
    laps = [sampler.sample(8, 0, 8) for _ in range(30)]
    assert all(Counter(lap) == dict.fromkeys(QUARTERS, 2) for lap in laps)
    assert len(set(laps)) > 20
    across = RoleSampler(QUARTERS, seed=4, rank=0).sample(16, 0, 8)
    assert across == laps[0] + laps[1]


def test_only_the_proportions_of_the_shares_count_and_a_share_of_zero_is_never_sampled():
    ones = RoleSampler(dict.fromkeys(QUARTERS, 1), seed=2, rank=0)
    assert ones.sample(9, 0, 9) == RoleSampler(QUARTERS, seed=2, rank=0).sample(9, 0, 9)
    no_twin = RoleSampler(QUARTERS | {Role.twin: 0.0}, seed=2, rank=0)
    assert Role.twin not in {role for index in range(50) for role in no_twin.sample(5, index, 5)}


def test_sampling_moves_no_global_random_stream():
    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    RoleSampler(QUARTERS, seed=0, rank=0).sample(5, 0, 8)
    assert (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({Role.near: -0.1}, "at least 0"),
        ({Role.near: float("nan")}, "finite"),
        ({Role.near: 0.0}, "above 0"),
        ({}, "above 0"),
        ({"nearby": 1.0}, "no roles \\['nearby'\\]"),
    ],
    ids=["negative", "nan", "all zero", "none", "unknown"],
)
def test_shares_that_cannot_be_sampled_are_refused(shares, words):
    with pytest.raises(TwinFlowConfigError, match=words):
        RoleSampler(shares, seed=0, rank=0)


@pytest.mark.parametrize(("batch_size", "window_rows"), [(0, 4), (4, 0)])
def test_a_sample_of_no_rows_is_refused(batch_size, window_rows):
    with pytest.raises(TwinFlowError, match="at least one row"):
        RoleSampler(QUARTERS, seed=0, rank=0).sample(batch_size, 0, window_rows)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e300])
def test_only_the_proportions_of_shares_count(scale):
    shares = {Role.near: 0.1 * scale, Role.one_step: 0.3 * scale}
    drawn = RoleSampler(shares, seed=0, rank=0).sample(8, window=0, window_rows=8)
    assert (drawn.count(Role.near), drawn.count(Role.one_step)) == (2, 6)
