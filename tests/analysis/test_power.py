import math

import pytest
from statsmodels.stats.power import TTestPower

from analysis.power import detectable_dz, least_pairs, pairs_needed, power_of, seeds_needed, upper_sd


@pytest.mark.parametrize(("alpha", "pairs"), [(0.05, 6), (0.1, 5), (0.01, 8), (0.03125, 6), (0.03, 7)])
def test_the_floor_of_the_exact_test_sets_the_least_number_of_pairs(alpha, pairs):
    assert least_pairs(alpha) == pairs
    assert 2 / 2**pairs <= alpha < 2 / 2 ** (pairs - 1)


@pytest.mark.parametrize("pairs", [3, 6, 10, 20])
@pytest.mark.parametrize("dz", [0.3, 1.0, -1.0, 1.9])
def test_power_equals_statsmodels(pairs, dz):
    assert power_of(pairs, dz, 0.05) == pytest.approx(TTestPower().power(dz, pairs, 0.05), abs=1e-9)


@pytest.mark.parametrize(("dz", "pairs"), [(1.0, 10), (0.66, 21), (0.05, 3142), (5.0, 6), (400.0, 6)])
def test_pairs_needed_is_the_first_with_eighty_percent(dz, pairs):
    assert pairs_needed(dz, 0.05) == pairs


def test_an_effect_of_nothing_or_next_to_nothing_is_out_of_reach():
    assert pairs_needed(0.0, 0.05) is None
    assert pairs_needed(float("inf"), 0.05) is None
    assert pairs_needed(0.001, 0.05) is None


@pytest.mark.parametrize(
    ("pairs", "dz"), [(3, 3.26), (5, 1.68), (6, 1.43), (8, 1.16), (10, 1.00), (20, 0.66)]
)
def test_the_detectable_effect_is_the_one_that_has_eighty_percent(pairs, dz):
    found = detectable_dz(pairs)

    assert round(found, 2) == dz
    assert power_of(pairs, found, 0.05) == pytest.approx(0.8, abs=1e-10)
    assert TTestPower().power(found, pairs, 0.05) == pytest.approx(0.8, abs=1e-10)


@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.025, 0.9), (0.01, 0.5)])
@pytest.mark.parametrize("pairs", [2, 4, 15, 300])
def test_pairs_and_detectable_effect_are_two_readings_of_one_curve(alpha, power, pairs):
    found = detectable_dz(pairs, alpha, power)

    assert pairs_needed(found * (1 + 1e-9), alpha, power) == max(pairs, least_pairs(alpha))
    assert pairs_needed(found * (1 - 1e-9), alpha, power) == max(pairs + 1, least_pairs(alpha))


@pytest.mark.parametrize("dz", [0.1, 0.25, 0.4, 0.66, 0.9, 1.0])
def test_pairs_needed_are_statsmodels_rounded_up(dz):
    exact = TTestPower().solve_power(dz, None, 0.05, 0.8)

    assert pairs_needed(dz, 0.05) == math.ceil(exact)
    assert power_of(math.ceil(exact), dz, 0.05) == pytest.approx(
        TTestPower().power(dz, math.ceil(exact), 0.05), abs=1e-10
    )


def test_one_pair_detects_nothing():
    assert detectable_dz(1) is None


@pytest.mark.parametrize(("pairs", "low", "high"), [(3, 0.52, 6.28), (6, 0.62, 2.45), (20, 0.76, 1.46)])
def test_the_sd_of_few_pairs_is_uncertain_itself(pairs, low, high):
    assert upper_sd(1.0, pairs, 0.975) == pytest.approx(high, abs=0.005)
    assert upper_sd(1.0, pairs, 0.025) == pytest.approx(low, abs=0.005)


def test_seeds_needed_are_given_at_the_sd_and_at_its_upper_limit():
    needed = seeds_needed(0.05, 0.05, 6)

    assert needed.at_sd == pairs_needed(1.0, 0.05) == 10
    assert needed.upper_sd == pytest.approx(0.05 * 1.4611, rel=1e-4)
    assert needed.at_upper_sd == pairs_needed(0.05 / needed.upper_sd, 0.05) == 19
    assert needed.floor == 6


@pytest.mark.parametrize(
    ("effect", "sd", "pairs"), [(0.05, 0.05, 1), (0.05, 0.0, 6), (0.0, 0.05, 6), (0.05, float("inf"), 6)]
)
def test_without_a_spread_or_an_effect_no_number_of_seeds_is_named(effect, sd, pairs):
    assert seeds_needed(effect, sd, pairs) is None
