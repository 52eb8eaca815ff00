import pytest
from statsmodels.stats.power import TTestPower

from analysis.power import least_pairs, pairs_needed, power_of


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
