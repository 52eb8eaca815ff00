"""What the verdict's rules buy, by simulation: the numbers of docs/statistics.md.

    python -m benchmarks.statistics

Prints, for 3 to 20 pairs, what they can show at all and how often a claim is made where there is no effect,
and then how often usual practice claims something that is not there. Seeded: the same numbers every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis import many, signflip
from analysis.power import detectable_dz, upper_sd

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
REPEATS = 20_000
CLAIMS = ("SUPERIOR", "INFERIOR")
SIZES = (5, 6, 8, 10, 12)
DELTAS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t with 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "one in ten tenfold": lambda rng, shape: (
        rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 10, 1)
    ),
    "accuracies of 50 items": lambda rng, shape: (
        (rng.binomial(50, 0.7, shape) - rng.binomial(50, 0.7, shape)) / 50.0
    ),
    "skewed (lognormal)": lambda rng, shape: rng.lognormal(0, 1, shape) - math.exp(0.5),
}


def main() -> None:
    print("pairs  floor 2/2^n  mean / SD  true SD / sample SD, 95 %")
    for n in (3, 5, 6, 8, 10, 12, 20):
        low, high = upper_sd(1.0, n, 0.025), upper_sd(1.0, n, 0.975)
        print(f"{n:5}  {2 / 2**n:11.2g}  {detectable_dz(n):9.2f}  {low:.2f} to {high:.2f}")
    print("\nclaims without an effect, per cent of experiments")
    print_row("differences", [f"n = {n}" for n in SIZES])
    for name, draw in DELTAS.items():
        print_row(name, [f"{100 * claims(draw, n, 0.0):.1f}" for n in SIZES])
    print("\npower, normal differences, per cent")
    for dz in (1.0, 2.0):
        print_row(f"mean of {dz:g} SD", [f"{100 * claims(DELTAS['normal'], n, dz):.1f}" for n in SIZES])
    print("\nusual practice, no effect, normal differences, per cent of experiments that claim one")
    print(f"t test after every seed from 3 to 10, stop at will:      {100 * peeking(3):5.1f}")
    print(f"both tests after every seed from 6 to 10, stop at will:  {100 * peeking(6):5.1f}")
    print(f"best of 20 checkpoints, one arm twice as noisy, n = 8:   {100 * best_checkpoint():5.1f}")
    print(f"an arm that loses its worst 2 of 10 seeds wins:          {100 * survivors(False):5.1f}")
    print(f"the same where failures rank worst as well:              {100 * survivors(True):5.1f}")
    print("\ncoverage of intervals that say 95 %, normal differences, per cent")
    for n in (3, 5, 10, 20):
        by_t, by_bootstrap = 100 * coverage_t(n), 100 * coverage_bootstrap(n)
        print(f"n = {n:2}: t {by_t:5.1f}   percentile bootstrap {by_bootstrap:5.1f}")


def print_row(name: str, cells: list[str]) -> None:
    print(f"{name:24}" + "".join(f"{cell:>8}" for cell in cells))


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng([2024, *key])


def claims(draw: Draw, n: int, effect: float) -> float:
    """Share of experiments that end SUPERIOR or INFERIOR."""
    verdicts = many.verdicts_of(draw(generator(n), (REPEATS, n)) + effect)
    return float(np.isin(verdicts, CLAIMS).mean())


def peeking(first: int) -> float:
    """Share that is significant at some look; the t test alone from 3, both tests from 6."""
    samples = generator(1).normal(size=(REPEATS, 10))
    found = np.zeros(REPEATS, dtype=bool)
    for n in range(first, 11):
        seen = samples[:, :n]
        p = many.p_t(seen) if first < 6 else np.maximum(many.p_t(seen), many.p_signflip(seen))
        found |= p <= 0.05
    return float(found.mean())


def best_checkpoint() -> float:
    """Lowest of 20 noisy evaluations as the endpoint: the noisier arm looks better."""
    rng = generator(2)
    best = [noise * rng.normal(size=(REPEATS, 8, 20)).min(axis=2) for noise in (1.0, 2.0)]
    seeds = rng.normal(0, 3, (2, REPEATS, 8))
    verdicts = many.verdicts_of(best[1] - best[0] + seeds[1] - seeds[0])
    return float(np.isin(verdicts, CLAIMS).mean())


def survivors(ranked: bool) -> float:
    """Share of wins of an arm without effect whose two worst of ten seeds failed."""
    deltas = np.sort(generator(3).normal(size=(REPEATS // 4, 10)), axis=1)
    wins = many.verdicts_of(deltas[:, :8]) == "SUPERIOR"
    if ranked:
        deltas[:, 8:] = np.inf
        ranks = np.array([signflip.signed_ranks(row) for row in deltas])
        wins &= (many.p_signflip(ranks) <= 0.05) & (ranks.sum(axis=1) < 0)
    return float(wins.mean())


def coverage_t(n: int) -> float:
    samples = generator(4, n).normal(size=(REPEATS, n))
    reach = stats.t.isf(0.025, n - 1) * samples.std(axis=1, ddof=1) / math.sqrt(n)
    return float((np.abs(samples.mean(axis=1)) <= reach).mean())


def coverage_bootstrap(n: int) -> float:
    rng = generator(5, n)
    samples = rng.normal(size=(REPEATS // 10, n))
    means = np.array([sample[rng.integers(0, n, (1000, n))].mean(axis=1) for sample in samples])
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return float((np.sign(low) != np.sign(high)).mean())


if __name__ == "__main__":
    main()
