"""How many pairs a paired comparison needs."""

from __future__ import annotations

import math

from scipy import stats

MOST_PAIRS = 10_000


def least_pairs(alpha: float) -> int:
    """Pairs from which the exact sign-flip test can reject at all: 2/2^n <= alpha."""
    return math.ceil(math.log2(2 / alpha) - 1e-9)


def power_of(pairs: int, dz: float, alpha: float) -> float:
    """Power of the two-sided paired t test at a standardised mean difference dz."""
    if pairs < 2:
        return 0.0
    bound = float(stats.t.isf(alpha / 2, pairs - 1))
    shift = abs(dz) * math.sqrt(pairs)
    # Past 5 the far tail is below 1e-11, and scipy's nct.cdf there is NaN for some arguments.
    far = float(stats.nct.cdf(-bound, pairs - 1, shift)) if shift < 5 else 0.0
    return float(stats.nct.sf(bound, pairs - 1, shift)) + far


def pairs_needed(dz: float, alpha: float, power: float = 0.8) -> int | None:
    """Fewest pairs with that power, and never fewer than the exact test's floor; None above 10,000."""
    if dz == 0 or not math.isfinite(dz):
        return None
    quantiles = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    # The normal approximation is a little too small, so the search goes up from it.
    roughly = (quantiles / dz) ** 2
    if roughly > MOST_PAIRS:
        return None
    pairs = max(least_pairs(alpha), math.floor(roughly))
    # Far above the bound the noncentral t has no accurate value, and none is needed.
    while abs(dz) * math.sqrt(pairs) < 10 and power_of(pairs, dz, alpha) < power:
        pairs += 1
    return pairs
