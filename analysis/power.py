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
    return float(stats.nct.sf(bound, pairs - 1, shift) + stats.nct.cdf(-bound, pairs - 1, shift))


def pairs_needed(dz: float, alpha: float, power: float = 0.8) -> int | None:
    """Fewest pairs with that power, and never fewer than the exact test's floor; None above 10,000."""
    low, high = least_pairs(alpha), MOST_PAIRS
    if not (math.isfinite(dz) and abs(dz) > 0) or abs(dz) * math.sqrt(high) < 2:
        return None
    if abs(dz) * math.sqrt(low) > 30:
        return low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, dz, alpha) >= power else (middle + 1, high)
    return low
