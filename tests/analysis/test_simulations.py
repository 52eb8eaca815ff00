"""The tests of the tests: how often the project claims what is not so, and finds what is.

Seeded, and vectorised by the ladder that verdicts.verdict_of agrees with row by row (test_verdicts). A share
may exceed its bound by 3.3 standard errors: with so many simulations that is one false alarm in a thousand.
"""

import math

import numpy as np
import pytest
from scipy import stats

from analysis import many, paired_tests
from analysis.maxt import max_t
from analysis.multiplicity import holm
from analysis.spread import distances
from analysis.steadiness import roughness
from analysis.verdicts import verdict_of
from tests.analysis.questions import judged, judged_family

pytestmark = pytest.mark.slow

SIMULATED = 20_000
SIZES = (6, 8, 10, 12)


def contaminated(rng, shape):
    """One value in ten is tenfold."""
    return rng.normal(0, 1, shape) * np.where(rng.random(shape) < 0.1, 10.0, 1.0)


def accuracies(rng, shape):
    """Differences of two accuracies over 50 items: rounded, so that many tie."""
    return (rng.binomial(50, 0.8, shape) - rng.binomial(50, 0.8, shape)) / 50


def exchangeable(rng, shape):
    """Differences of two skewed values of one distribution: symmetric, however skewed these are."""
    return rng.lognormal(0, 1, shape) - rng.lognormal(0, 1, shape)


SHAPES = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
    "laplace": lambda rng, shape: rng.laplace(0, 1, shape),
    "contaminated": contaminated,
    "accuracies": accuracies,
    "skewed arms": exchangeable,
}


def drawn(shape, n, *key, count=SIMULATED):
    """[count, n] differences without effect."""
    return SHAPES[shape](np.random.default_rng([n, sum(map(ord, shape)), *key]), (count, n))


def at_most(bound, count):
    """The bound and 3.3 standard errors."""
    return bound + 3.3 * math.sqrt(bound * (1 - bound) / count)


def claimed(samples, **terms):
    """Share of rows that end in a claim of a difference."""
    return np.isin(many.verdicts_of(samples, **terms), ["SUPERIOR", "INFERIOR"]).mean()


# --- one question


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_an_effect_at_most_alpha_of_all_experiments_claim_one(shape, n):
    assert claimed(drawn(shape, n)) <= at_most(0.05, SIMULATED)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_up_to_five_pairs_nothing_is_ever_claimed(n):
    samples = drawn("normal", n, count=2_000) + 5.0

    assert set(many.verdicts_of(samples, margin=1.0)) == {"NOT TESTABLE"}
    assert {verdict_of(row, margin=1.0) for row in samples[:50]} == {"NOT TESTABLE"}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", ["normal", "t3", "laplace", "contaminated"])
@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_an_arm_worse_by_the_margin_is_called_non_inferior_in_at_most_half_of_alpha(shape, n, margin):
    verdicts = many.verdicts_of(drawn(shape, n, 1) + margin, margin=margin)

    assert np.isin(verdicts, ["NON-INFERIOR", "EQUIVALENT", "SUPERIOR"]).mean() <= at_most(0.025, SIMULATED)


def near_margin(n, shape="normal"):
    """A margin of 1.3 half-widths of the t interval: where a test of the margin can be wrong, and shows it.

    Nearer than 1, no interval fits between both margins; beyond 2, one that leaves the margin out leaves zero
    out, too, and ends as INFERIOR before anything is held against the margin.
    """
    spread = math.sqrt({"normal": 1, "t3": 3, "laplace": 2}[shape])
    return 1.3 * spread * stats.t.isf(0.025, n - 1) / math.sqrt(n)


def between(samples, margin):
    """Rows that two one-sided t tests at half of alpha place between the margins."""
    n = samples.shape[1]
    error = samples.std(axis=1, ddof=1) / math.sqrt(n)
    return stats.t.sf((margin - np.abs(samples.mean(axis=1))) / error, n - 1) <= 0.025


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", ["normal", "t3", "laplace"])
@pytest.mark.parametrize("side", [-1, 1])
def test_arms_apart_by_the_margin_are_called_equivalent_in_at_most_half_of_alpha(side, shape, n):
    margin = near_margin(n, shape)

    verdicts = many.verdicts_of(drawn(shape, n, 2) + side * margin, margin=margin)

    assert (verdicts == "EQUIVALENT").mean() <= at_most(0.025, SIMULATED)


@pytest.mark.parametrize(("n", "least"), [(8, 0.011), (10, 0.015), (12, 0.018)])
def test_at_that_margin_half_of_alpha_is_nearly_spent(n, least):
    """The bound above is not kept for want of cases: two t tests alone use it up, the verdict most of it."""
    margin = near_margin(n)
    samples = drawn("normal", n, 2) + margin

    verdicts, alone = many.verdicts_of(samples, margin=margin), between(samples, margin)

    assert alone.mean() == pytest.approx(0.025, abs=3.3 * math.sqrt(0.025 * 0.975 / SIMULATED))
    assert (verdicts == "EQUIVALENT").mean() >= least
    assert alone[verdicts == "EQUIVALENT"].all()
    for row, verdict in zip(samples[alone], verdicts[alone], strict=True):
        assert verdict_of(row, margin=margin) == verdict
        assert paired_tests.margin_test(row, 0.0, margin, 1).p_equivalence <= 0.025


@pytest.mark.parametrize("n", range(3, 21))
def test_the_t_interval_covers_the_mean_as_often_as_it_says(n):
    samples = drawn("normal", n, 3, count=60_000)

    covered = many.p_t(samples) > 0.05

    assert 0.945 <= covered.mean() <= 0.956
    for row, inside in zip(samples[:40], covered, strict=False):
        if n <= 12:
            low, high = paired_tests.tested(row, 0.0, 0.05, 1).interval
            assert (low <= 0 <= high) == inside


@pytest.mark.parametrize(("dz", "n", "power"), [(1, 8, 0.64), (1, 10, 0.79), (1, 12, 0.88), (2, 6, 0.87)])
def test_the_power_is_the_one_that_was_published(dz, n, power):
    assert claimed(drawn("normal", n, 4) + dz) == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize("shape", ["normal", "t3", "accuracies"])
def test_three_declared_looks_together_keep_alpha(shape):
    samples = drawn(shape, 12, 5)
    verdicts = [many.verdicts_of(samples[:, :pairs], alpha=0.05 / 3) for pairs in (8, 10, 12)]

    ever = np.isin(verdicts, ["SUPERIOR", "INFERIOR"]).any(axis=0)

    assert ever.mean() <= at_most(0.05, SIMULATED)
    undeclared = [
        np.isin(many.verdicts_of(samples[:, :pairs]), ["SUPERIOR", "INFERIOR"]) for pairs in range(6, 13)
    ]
    assert np.any(undeclared, axis=0).mean() > 0.08


# --- families, failures


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("real", [0, 2])
def test_holm_keeps_alpha_over_a_family_however_its_members_hang_together(r, real):
    """Five questions, `real` of them with an effect: no false claim among the others."""
    count, n, size = 8_000, 10, 5
    rng = np.random.default_rng([7, int(10 * r), real])
    shared, own = rng.normal(0, 1, (count, 1, n)), rng.normal(0, 1, (count, size, n))
    deltas = math.sqrt(r) * shared + math.sqrt(1 - r) * own
    deltas[:, :real] += 1.5
    exact, t = (test(deltas.reshape(-1, n)).reshape(count, size) for test in (many.p_signflip, many.p_t))
    adjusted = np.array([[holm(list(row)) for row in exact], [holm(list(row)) for row in t]]).max(axis=0)

    false = (adjusted[:, real:] <= 0.05).any(axis=1)

    assert false.mean() <= at_most(0.05, count)
    _judged_the_same(deltas[:25], adjusted[:25] <= 0.05)


def _judged_the_same(families, claims):
    """The whole path, from questions to verdicts, makes the same claims."""
    for deltas, wanted in zip(families, claims, strict=True):
        answers = judged_family(
            [0.0] * deltas.shape[1], {f"arm{k}": row.tolist() for k, row in enumerate(deltas)}, margin=None
        )
        found = [answers[f"arm{k}"].verdict in ("SUPERIOR", "INFERIOR") for k in range(len(deltas))]
        assert found == wanted.tolist()


@pytest.mark.parametrize(("n", "effect"), [(10, 0.0), (10, 0.5), (12, 0.0)])
def test_an_arm_that_loses_its_worst_fifth_of_seeds_does_not_win_by_it(n, effect):
    """effect: how much worse the arm really is. Its worst runs crash, so they have no value."""
    count, lost = 600, n // 5
    rng = np.random.default_rng([n, int(10 * effect), 8])
    wins, complete = 0, 0
    for _ in range(count):
        flat, structured = rng.normal(0, 1, n), rng.normal(effect, 1, n)
        crashed = {("structured", int(place)): "crashed" for place in np.argsort(structured)[-lost:]}
        answer = judged(flat.tolist(), structured.tolist(), statuses=crashed, margin=None)
        wins += answer.verdict == "SUPERIOR"
        complete += "SUPERIOR" in (answer.verdict, answer.capped_from)

    assert wins / count <= at_most(0.025, count)
    if not effect:
        assert complete / count > at_most(0.025, count)


# --- stability, curves


def scaled_pairs(shape, n, r, ratio=1.0, count=SIMULATED):
    """[count, n] values of two arms that share part of each seed; the second spreads `ratio` times as far."""
    shared, ours, theirs = (drawn(shape, n, 9 + k, int(10 * r), count=count) for k in range(3))
    mixed = [math.sqrt(r) * shared + math.sqrt(1 - r) * own for own in (ours, theirs)]
    return mixed[0] * ratio, mixed[1]


@pytest.mark.parametrize("n", [8, 10, 12])
@pytest.mark.parametrize("r", [0.0, 0.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_test_of_spread_keeps_its_size_under_heavy_tails(shape, r, n):
    ours, theirs = scaled_pairs(shape, n, r)

    assert claimed(distances(ours) - distances(theirs)) <= at_most(0.05, SIMULATED)


def test_the_test_of_spread_finds_a_spread_four_times_as_wide():
    ours, theirs = scaled_pairs("normal", 12, 0.5, ratio=4.0)

    verdicts = many.verdicts_of(distances(ours) - distances(theirs))

    assert (verdicts == "INFERIOR").mean() > 0.8


@pytest.mark.parametrize("n", [8, 12])
@pytest.mark.parametrize("rate", [0.05, 0.5, 3.0])
def test_counts_of_spikes_that_are_mostly_zero_keep_alpha(rate, n):
    rng = np.random.default_rng([n, int(100 * rate)])

    deltas = rng.poisson(rate, (SIMULATED, n)) - rng.poisson(rate, (SIMULATED, n)).astype(float)

    assert claimed(deltas) <= at_most(0.05, SIMULATED)


def test_the_roughness_of_two_equally_noisy_arms_is_told_apart_in_at_most_alpha():
    count, n, points = 2_000, 8, 60
    rng = np.random.default_rng(11)
    losses = 2 + np.exp(-np.arange(points) / 20) + rng.standard_t(4, (2 * count * n, points)) * 0.05
    steps = np.broadcast_to(np.arange(points) * 10.0, losses.shape)

    ours, theirs = np.log(roughness(losses, steps)).reshape(2, count, n)

    assert claimed(ours - theirs) <= at_most(0.05, count)


def walk(rng, n, steps, heavy):
    """Difference curves whose steps hang together, r = 0.9 between neighbours."""
    noise = rng.standard_t(3, (n, steps)) if heavy else rng.normal(0, 1, (n, steps))
    for step in range(1, steps):
        noise[:, step] = 0.9 * noise[:, step - 1] + math.sqrt(1 - 0.81) * noise[:, step]
    return noise


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("heavy", [False, True])
def test_without_an_effect_the_band_leaves_zero_out_anywhere_in_at_most_alpha(n, heavy):
    count, rng = 1_000, np.random.default_rng([n, heavy])
    found = [max_t(walk(rng, n, 20, heavy), 0.05) for _ in range(count)]

    assert np.mean([bool((np.abs(one.t) > one.width).any()) for one in found]) <= at_most(0.05, count)
    assert np.mean([bool((one.p <= 0.05).any()) for one in found]) <= at_most(0.05, count)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("effect", [1.0, 3.0, "rising"])
def test_the_band_covers_the_whole_true_curve_as_often_as_it_says(n, effect):
    count, rng = 1_000, np.random.default_rng([n, 12])
    truth = np.linspace(0, 3, 20) if effect == "rising" else np.full(20, effect)
    covered = 0
    for _ in range(count):
        deltas = truth + walk(rng, n, 20, heavy=False)
        error = deltas.std(axis=0, ddof=1) / math.sqrt(n)
        covered += bool((np.abs(deltas.mean(axis=0) - truth) <= max_t(deltas, 0.05).width * error).all())

    assert covered / count >= 1 - at_most(0.06, count)
