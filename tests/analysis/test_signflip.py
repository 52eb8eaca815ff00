import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import permutation_test

from analysis import signflip

deltas = arrays(
    np.float64, st.integers(1, 9), elements=st.floats(-1e3, 1e3).map(lambda value: round(value, 4))
)


@pytest.mark.parametrize("n", [2, 3, 6, 9, 12])
@pytest.mark.parametrize("seed", range(4))
def test_p_equals_scipys_exhaustive_permutation_test(n, seed):
    sample = np.random.default_rng([n, seed]).normal(0.4, 1, n)

    expected = permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue

    assert signflip.p_value(sample) == pytest.approx(expected, abs=1e-12)


def test_tied_differences_of_rounded_accuracies_are_counted_as_ties():
    accuracies = np.array([0.7, 0.8, 0.9, 0.6, 0.7, 0.8, 0.9, 0.5])
    sample = accuracies - np.array([0.6, 0.7, 0.8, 0.5, 0.8, 0.9, 0.8, 0.6])
    counts = np.array([1.0, 1, 1, 1, -1, -1, 1, -1])

    assert signflip.p_value(sample) == signflip.p_value(counts)


def share_beyond(sample, mean, side):
    """One-sided p by trying every sign, in whole numbers: no rounding, so ties are ties."""
    far = [side * (value - mean) for value in sample]
    sums = [
        sum(map(math.prod, zip(signs, far, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(far))
    ]
    return sum(total >= sum(far) for total in sums) / len(sums)


@pytest.mark.parametrize("side", [1, -1])
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.integers(-3, 3))
@settings(max_examples=150)
def test_the_one_sided_p_counts_what_is_observed_on_either_side(side, sample, mean):
    found = signflip.p_one_sided(np.array(sample, dtype=float), 0.0, float(mean), side)

    assert found == share_beyond(sample, mean, side)


def test_the_observed_signs_count_where_the_mean_lies_on_the_other_side():
    """Two of 64 sign patterns lie farther up, so p of lying below is 1 - 2/64, not one less half the p."""
    sample = [8, 9, 10, 11, -3, 2]

    found = signflip.p_one_sided(np.array(sample, dtype=float), 0.0, 0.0, -1)

    assert found == share_beyond(sample, 0, -1) == 0.96875


@pytest.mark.parametrize("side", [1, -1])
def test_drawn_signs_give_the_one_sided_p_of_all_signs_and_half_the_two_sided_one(side):
    sample = np.random.default_rng(3).normal(0.3, 1, 18)
    flips = ((np.arange(2**18)[:, None] >> np.arange(18)) & 1) * -2 + 1

    found = signflip.p_one_sided(sample, 0.0, 0.0, side)

    assert found == pytest.approx(np.mean(side * (flips @ sample) >= side * sample.sum() - 1e-9), abs=0.004)
    assert min(found, 1 - found) == pytest.approx(signflip.p_value(sample) / 2, abs=1e-5)


@given(deltas)
def test_p_is_at_least_the_floor_and_at_most_one(sample):
    assert signflip.floor_of(len(sample)) <= signflip.p_value(sample) <= 1


@given(deltas, st.sampled_from([0.05, 0.1, 0.3]))
def test_the_interval_holds_exactly_the_means_that_are_not_rejected(sample, alpha):
    bounds = signflip.interval(sample, alpha)

    if bounds is None:
        assert signflip.floor_of(len(sample)) > alpha
        return
    low, high = bounds
    size = max(1.0, float(np.abs(sample).max()))
    step, rounding = 1e-6 * size, 1e-12 * size
    assert signflip.p_value(sample - low, rounding) > alpha
    assert signflip.p_value(sample - high, rounding) > alpha
    assert signflip.p_value(sample - (low - step)) <= alpha
    assert signflip.p_value(sample - (high + step)) <= alpha


def test_interval_and_p_are_dual_where_signs_are_drawn():
    sample = np.random.default_rng(1).normal(0.3, 1, 24)
    low, high = signflip.interval(sample, 0.05)

    assert signflip.p_value(sample - low) > 0.05
    assert signflip.p_value(sample - (low - 1e-4)) <= 0.05
    assert signflip.p_value(sample - high) > 0.05
    assert signflip.p_value(sample - (high + 1e-4)) <= 0.05


def test_drawn_signs_come_close_to_all_of_them(monkeypatch):
    sample = np.random.default_rng(5).normal(0.5, 1, 14)
    exact = signflip.p_value(sample)

    monkeypatch.setattr(signflip, "ENUMERATED", 10)

    assert signflip.p_value(sample) == pytest.approx(exact, abs=4 * math.sqrt(exact / 200_000))
    assert signflip.p_value(sample) == signflip.p_value(sample)


@settings(max_examples=50)
@given(arrays(np.float64, 7, elements=st.floats(-100, 100)), st.integers(-30, 30))
def test_p_does_not_change_with_the_unit(sample, exponent):
    assert signflip.p_value(sample * 2.0**exponent) == signflip.p_value(sample)


def test_infinite_differences_rank_highest_and_ties_share_their_rank():
    ranks = signflip.signed_ranks(np.array([0.1 + 0.2, -0.3, np.inf, -np.inf, 0.0, 5.0]))

    assert ranks.tolist() == [2.5, -2.5, 5.5, -5.5, 0.0, 4.0]


@pytest.mark.parametrize("pairs", [20, 1_000, 5_000])
def test_the_floor_of_many_pairs_is_that_of_the_signs_that_are_drawn(pairs):
    assert signflip.floor_of(pairs) == 1 / (signflip.DRAWS + 1)
