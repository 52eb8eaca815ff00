import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.effects import (
    effects_of,
    hedges_factor,
    hodges_lehmann,
    noncentral_t,
    noncentrality_interval,
    sensitivity_of,
)
from tests.analysis.questions import judged

SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
"""R's `sleep` data: what the second drug adds."""
few = settings(max_examples=40, deadline=None)
samples = st.lists(st.floats(-10, 10).map(lambda value: round(value, 2)), min_size=2, max_size=12)


def test_the_sleep_data_give_the_standardised_effect_that_r_prints():
    effects = effects_of(SLEEP, 0.0, -1, 0.05)

    # effectsize::cohens_d of the paired sleep data prints -1.28 | [-2.12, -0.41] for the first drug.
    assert effects.dz == pytest.approx(4.0621 / math.sqrt(10), abs=1e-5)
    assert effects.dz_interval == pytest.approx((0.41, 2.12), abs=0.005)
    assert effects.gz == pytest.approx(hedges_factor(9) * effects.dz)
    assert effects.gz_interval == pytest.approx(tuple(hedges_factor(9) * end for end in effects.dz_interval))


def test_the_hodges_lehmann_estimate_is_the_median_of_all_walsh_averages():
    averages = [(a + b) / 2 for place, a in enumerate(SLEEP) for b in SLEEP[place:]]

    assert hodges_lehmann(SLEEP) == pytest.approx(np.median(averages), abs=1e-15)


def test_one_wild_seed_moves_the_hodges_lehmann_estimate_little():
    assert hodges_lehmann(np.array([1.0, 1.1, 0.9, 1.0, 1.05, 100.0])) < 2


@pytest.mark.parametrize("freedom", [1, 3, 9, 40])
@pytest.mark.parametrize("t", [0.0, 0.4, 2.0, 7.5, 60.0])
@pytest.mark.parametrize("distance", [-3.0, -0.5, 0.0, 1.5])
def test_the_noncentral_t_is_scipys_where_scipy_has_it(freedom, t, distance):
    shift = t + distance * math.sqrt(1 + t * t / (2 * freedom))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = float(stats.nct.cdf(t, freedom, shift))

    found = noncentral_t(t, freedom, shift)

    assert 0 <= found <= 1
    assert math.isnan(expected) or found == pytest.approx(expected, abs=1e-7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("t", [0.0, 1e-300, 0.3, 40.0, 1e6, 1e15])
@pytest.mark.parametrize("freedom", [1, 5, 5000])
def test_the_noncentrality_interval_holds_its_level_at_both_ends_whatever_t(t, freedom):
    low, high = noncentrality_interval(t, freedom, 0.05)

    assert low < high
    assert noncentral_t(t, freedom, low) == pytest.approx(0.975, abs=1e-6)
    assert noncentral_t(t, freedom, high) == pytest.approx(0.025, abs=1e-6)
    assert noncentrality_interval(-t, freedom, 0.05) == ((-high, -low) if t else (low, high))


@pytest.mark.parametrize("freedom", [2, 5, 30])
def test_hedges_factor_is_near_its_usual_approximation(freedom):
    assert hedges_factor(freedom) == pytest.approx(1 - 3 / (4 * freedom - 1), abs=0.03 / freedom)


def test_g_has_no_bias_where_d_has_one():
    deltas = np.random.default_rng(0).normal(0.8, 1, (20_000, 6))
    dz = deltas.mean(axis=1) / deltas.std(axis=1, ddof=1)

    assert dz.mean() == pytest.approx(0.8 / hedges_factor(5), abs=0.02)
    assert (dz * hedges_factor(5)).mean() == pytest.approx(0.8, abs=0.02)


@few
@given(samples)
def test_swapping_the_arms_mirrors_every_effect(deltas):
    ours = effects_of(np.array(deltas), 1e-9, 1, 0.05)
    theirs = effects_of(-np.array(deltas), 1e-9, 1, 0.05)

    assert (theirs.wins, theirs.ties, theirs.losses) == (ours.losses, ours.ties, ours.wins)
    assert ours.wins + ours.ties + ours.losses == len(deltas)
    assert theirs.hodges_lehmann == pytest.approx(-ours.hodges_lehmann, abs=1e-12)
    assert (theirs.dz is None) == (ours.dz is None)
    if ours.dz is not None:
        assert theirs.dz == pytest.approx(-ours.dz)
        assert theirs.dz_interval == pytest.approx((-ours.dz_interval[1], -ours.dz_interval[0]))


@few
@given(samples, st.integers(-30, 30))
def test_standardised_effects_and_ps_do_not_change_with_the_unit(deltas, exponent):
    plain, scale = np.array(deltas), 2.0**exponent
    zeros = np.zeros(len(plain))
    seeds = list(range(len(plain)))

    ours, theirs = effects_of(plain, 0.0, 1, 0.05), effects_of(plain * scale, 0.0, 1, 0.05)
    here = sensitivity_of(plain, zeros, plain, seeds, 0.0)
    there = sensitivity_of(plain * scale, zeros, plain * scale, seeds, 0.0)

    assert theirs.dz == ours.dz
    assert theirs.gz_interval == ours.gz_interval
    assert theirs.hodges_lehmann == ours.hodges_lehmann * scale
    assert there.p_wilcoxon == here.p_wilcoxon
    assert (there.leave_one_out is None) == (here.leave_one_out is None)


@pytest.mark.parametrize(("wins", "n"), [(0, 6), (6, 6), (5, 8), (13, 20)])
def test_wins_have_their_exact_binomial_interval(wins, n):
    deltas = np.array([-1.0] * wins + [1.0] * (n - wins))

    low, high = effects_of(deltas, 0.0, 1, 0.05).wins_interval

    assert low == pytest.approx(stats.beta.ppf(0.025, wins, n - wins + 1) if wins else 0.0, abs=1e-10)
    assert high == pytest.approx(stats.beta.ppf(0.975, wins + 1, n - wins) if wins < n else 1.0, abs=1e-10)


def test_a_difference_within_rounding_is_neither_won_nor_lost():
    effects = effects_of(np.array([0.1 + 0.2 - 0.3, -1.0, 2.0]), 1e-15, 1, 0.05)

    assert (effects.wins, effects.ties, effects.losses) == (1, 1, 1)


# --- sensitivity


@pytest.mark.parametrize("n", [4, 7, 11])
def test_wilcoxon_is_scipys_exact_one_without_ties(n):
    deltas = np.random.default_rng(n).normal(0.5, 1, n)

    found = sensitivity_of(deltas, np.zeros(n), deltas, range(n), 0.0).p_wilcoxon

    assert found == pytest.approx(stats.wilcoxon(deltas, method="exact").pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [17, 60, 400])
def test_wilcoxon_of_many_pairs_is_scipys_normal_approximation(n):
    deltas = np.random.default_rng(n).normal(0.1, 1, n).round(1)

    found = sensitivity_of(deltas, np.zeros(n), deltas, range(n), 0.0).p_wilcoxon

    expected = stats.wilcoxon(deltas, zero_method="pratt", correction=False, method="asymptotic").pvalue
    assert found == pytest.approx(expected, rel=1e-6)


def test_leaving_one_seed_out_gives_the_range_of_means_and_the_weakest_t():
    zeros = np.zeros(10)

    found = sensitivity_of(SLEEP, zeros, SLEEP, range(100, 110), 0.0).leave_one_out

    rest = [np.delete(SLEEP, place) for place in range(10)]
    assert found.low == pytest.approx(min(part.mean() for part in rest))
    assert found.high == pytest.approx(max(part.mean() for part in rest))
    assert found.p_t_highest == pytest.approx(max(stats.ttest_1samp(part, 0).pvalue for part in rest))
    assert found.seed == 108


def test_the_pairing_gain_is_the_ratio_of_both_designs_variances():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 1, 12)
    flat, structured = shared + rng.normal(0, 0.1, 12), shared + rng.normal(0, 0.1, 12)

    found = sensitivity_of(structured - flat, flat, structured, range(12), 0.0)

    unpaired = flat.var(ddof=1) + structured.var(ddof=1)
    assert found.correlation == pytest.approx(np.corrcoef(flat, structured)[0, 1])
    assert found.pairing_gain == pytest.approx(unpaired / (structured - flat).var(ddof=1))
    assert found.pairing_gain > 20


def test_arms_that_share_nothing_over_the_seeds_are_warned_of():
    flat = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    structured = [1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.05]

    apart, together = judged(flat, structured), judged(flat, [value - 0.1 for value in flat[:7]] + [1.55])

    assert any("pairing gains nothing" in warning for warning in apart.warnings)
    assert together.warnings == ()


def test_a_claim_that_hangs_on_single_seeds_says_so():
    calm = judged([2.0] * 8, [1.5, 1.4, 1.6, 1.5, 1.45, 1.55, 1.5, 1.4])
    frail = judged([2.0] * 6, [1.99, 1.2, 1.95, 1.3, 1.6, 1.75])

    assert calm.verdict == frail.verdict == "SUPERIOR"
    assert calm.warnings == ()
    assert frail.warnings == ("The claim hangs on single seeds: without one of them the t test has p = 0.1.",)
