"""How many pairs a paired comparison needs, and what effect so many pairs can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats
from scipy.optimize import brentq

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
    root = quantiles / abs(dz)
    if root > math.sqrt(MOST_PAIRS):
        return None
    pairs = max(least_pairs(alpha), math.floor(root**2))
    # Far above the bound the noncentral t has no accurate value, and none is needed.
    while abs(dz) * math.sqrt(pairs) < 10 and power_of(pairs, dz, alpha) < power:
        pairs += 1
    return pairs


def detectable_dz(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The standardised mean difference that so many pairs find with that power by the two-sided t test.

    None below two pairs. Under least_pairs(alpha) the exact test still claims nothing, whatever the effect.
    """
    if pairs < 2:
        return None

    def lacking(shift: float) -> float:
        return power_of(pairs, shift / math.sqrt(pairs), alpha) - power

    bound = float(stats.t.isf(alpha / 2, pairs - 1))
    high = bound + 10.0
    while lacking(high) < 0:
        high *= 2
    return float(brentq(lacking, 0.0, high, xtol=1e-13, rtol=1e-14)) / math.sqrt(pairs)


def upper_sd(sd: float, pairs: int, level: float = 0.8) -> float:
    """The one-sided upper confidence limit of the SD behind a sample SD, which few pairs often understate."""
    return sd * math.sqrt((pairs - 1) / float(stats.chi2.ppf(1 - level, pairs - 1)))


@dataclass(frozen=True, kw_only=True)
class SeedsNeeded:
    """Pairs in all for an effect of interest with the given power, None above 10,000."""

    effect: float
    alpha: float
    power: float
    floor: int
    """Fewest pairs with which the exact test can reject at all."""
    sd: float
    at_sd: int | None
    upper_sd: float
    """The SD's upper 80 % limit."""
    at_upper_sd: int | None


def seeds_needed(
    effect: float, sd: float, pairs: int, alpha: float = 0.05, power: float = 0.8
) -> SeedsNeeded | None:
    """Seeds for the effect at the SD of so many pairs' differences, and at its upper 80 % limit.

    None where no SD can be had: fewer than two pairs, or differences that do not vary. The effect is the
    smallest of interest, named beforehand; power at the observed effect is never asked.
    """
    if pairs < 2 or not (math.isfinite(sd) and sd > 0) or not (math.isfinite(effect) and effect != 0):
        return None
    upper = upper_sd(sd, pairs)
    return SeedsNeeded(
        effect=effect,
        alpha=alpha,
        power=power,
        floor=least_pairs(alpha),
        sd=sd,
        at_sd=pairs_needed(effect / sd, alpha, power),
        upper_sd=upper,
        at_upper_sd=pairs_needed(effect / upper, alpha, power),
    )
