"""The triples test of symmetry, and the caution that it puts into the verdict's box."""

import itertools
import math

import numpy as np
import pytest

from analysis import skew
from tests.analysis.questions import judged

LONG = [0.4, 0.5, 0.5, 0.6, 0.7, 0.9, 1.2, 1.9, 3.1, 7.4]
"""Ten values of a lognormal kind."""


def z_by_hand(values):
    """Randles et al. 1980 over itertools' triples, pair by pair and one by one."""
    n = len(values)

    def lean(*places):
        a, b, c = (values[place] for place in places)
        return sum(np.sign(x) for x in (a + b - 2 * c, a + c - 2 * b, b + c - 2 * a)) / 3

    triples = {places: lean(*places) for places in itertools.combinations(range(n), 3)}
    mean = np.mean(list(triples.values()))

    def spread(size):
        within = [
            np.mean([found for places, found in triples.items() if set(some) <= set(places)])
            for some in itertools.combinations(range(n), size)
        ]
        return np.mean((np.array(within) - mean) ** 2)

    shares = spread(1), spread(2), 1 / 9 - mean**2
    variance = sum(math.comb(3, k) * math.comb(n - 3, 3 - k) * s for k, s in enumerate(shares, 1))
    return mean / math.sqrt(variance / math.comb(n, 3))


@pytest.mark.parametrize("n", [6, 7, 10])
def test_z_is_that_of_the_paper_counted_triple_by_triple(n):
    samples = np.random.default_rng(n).lognormal(0, 1, (5, n))

    found = skew.triples_z(samples)

    assert found == pytest.approx([z_by_hand(row) for row in samples], abs=1e-12)


def test_a_mirror_turns_the_sign_and_no_unit_or_origin_changes_z():
    values = np.array(LONG)

    assert skew.triples_z(-values) == pytest.approx(-skew.triples_z(values))
    assert skew.triples_z(3 - 1e-3 * values, 1e-12) == pytest.approx(-skew.triples_z(values, 1e-9))
    assert skew.triples_z(values) > skew.CRITICAL


def test_what_is_even_but_for_rounding_leans_nowhere():
    accuracies = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])

    assert skew.triples_z(accuracies, 1e-15) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("side", "towards"), [(1, "worse"), (-1, "better")])
def test_skewed_differences_are_warned_of_and_no_verdict_changes(side, towards):
    flat = [2.0] * len(LONG)
    skewed = judged(flat, [2 + side * (value - 1.7) for value in LONG])
    even = judged(flat, [2 + value for value in np.linspace(-1, 1.3, len(LONG))])

    (warning,) = [text for text in skewed.warnings if "skewed" in text]
    assert f"their long tail is towards {towards}" in warning
    assert "claim too often" in warning
    assert skewed.verdict == even.verdict == "INCONCLUSIVE"
    assert not any("skewed" in text for text in even.warnings)


@pytest.mark.parametrize("n", [3, 5, 101])
def test_it_is_not_asked_of_too_few_or_of_many_pairs(n):
    values = np.random.default_rng(n).lognormal(0, 1, n)
    plain = judged([0.0] * n, values.tolist()).to_dict()

    assert plain["sensitivity"]["skew_z"] is None
    assert "6 to 100" in plain["why_null"]["sensitivity.skew_z"]
