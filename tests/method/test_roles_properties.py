"""Laws of the roles for any shares, ranks and windows, drawn by hypothesis."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from simpletuner_twinflow.method.roles import Role, RoleSampler

# Whole numbers times some scale, so that each role's part of the rows is known as a fraction.
weights = st.dictionaries(st.sampled_from(list(Role)), st.integers(0, 1000)).filter(lambda drawn: any(drawn.values()))
scales = st.sampled_from([1, 0.01, 1 / 3, 1e-9, 1e300])
seeds, windows = st.integers(0, 2**32), st.integers(0, 10**6)


def counts_by_rank(shares, seed, window, rows, ranks):
    """How often each rank has each role in a window of `rows` on each."""
    samplers = [RoleSampler(shares, seed, rank, ranks) for rank in range(ranks)]
    return [Counter(sampler.sample(rows, window, rows)) for sampler in samplers]


@given(weights, scales, seeds, windows, st.integers(1, 40), st.integers(1, 9))
def test_over_all_ranks_each_role_has_its_share_within_one_row_and_exactly_where_that_is_whole(
    weights, scale, seed, window, rows, ranks
):
    shares = {role: weight * scale for role, weight in weights.items()}
    counts = counts_by_rank(shares, seed, window, rows, ranks)
    assert [count.total() for count in counts] == [rows] * ranks
    for role in Role:
        expected = Fraction(weights.get(role, 0) * rows * ranks, sum(weights.values()))
        drawn = [count[role] for count in counts]
        assert abs(sum(drawn) - expected) < 1
        assert expected.denominator > 1 or sum(drawn) == expected
        assert max(drawn) - min(drawn) <= 1


@given(weights, seeds, windows, st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_batch_of_twelve_has_the_same_roles_within_one_row_however_it_is_split_over_ranks(
    weights, seed, window, ranks, others
):
    first, second = (sum(counts_by_rank(weights, seed, window, 12 // n, n), Counter()) for n in (ranks, others))
    for role in Role:
        assert abs(first[role] - second[role]) <= 1
        if weights.get(role, 0) * 12 % sum(weights.values()) == 0:
            assert first[role] == second[role]


@given(weights, seeds, windows, st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 20))
def test_the_roles_of_a_window_do_not_depend_on_how_it_is_cut_into_batches(weights, seed, window, batches, rows):
    whole = RoleSampler(weights, seed).sample(sum(batches), window, rows)
    sampler = RoleSampler(weights, seed)
    assert tuple(role for size in batches for role in sampler.sample(size, window, rows)) == whole
    # A window that is longer than announced goes on with samples of that many rows, each of its shares.
    for start in range(0, len(whole) - rows + 1, rows):
        counts = Counter(whole[start : start + rows])
        for role in Role:
            assert abs(counts[role] - Fraction(weights.get(role, 0) * rows, sum(weights.values()))) < 1
