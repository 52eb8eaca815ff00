"""Why the data leave a question open: which test withholds the claim, and with what they are compatible."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.paired_tests import Interval
from analysis.power import least_pairs
from analysis.signflip import ENUMERATED

if TYPE_CHECKING:
    from analysis.comparison import Comparison


def withholding(comparison: Comparison) -> tuple[str, ...]:
    """Of "exact" and "t", what does not reject at alpha by itself; none where sharing the level is why."""
    ps = {"exact": comparison.p_signflip, "t": comparison.p_t}
    return tuple(name for name, p in ps.items() if p is not None and p > comparison.alpha)


def needs_all(comparison: Comparison) -> bool:
    """Whether with so few pairs the exact test rejects only where every seed goes the same way."""
    return comparison.pairs == least_pairs(comparison.alpha)


def seeds_that_agree(comparison: Comparison) -> str:
    """ "5 of 6 seeds worse": how many go the way of the mean."""
    found, pairs = comparison.effects, comparison.pairs
    lean = comparison.statistics.lean * comparison.endpoint.harm_sign
    if not lean:
        return f"{found.wins} of {pairs} seeds better, {found.losses} worse"
    count, word = (found.losses, "worse") if lean > 0 else (found.wins, "better")
    return f"{count} of {pairs} seeds {word}"


def what_exact_needs(comparison: Comparison) -> str:
    """What the exact test would have needed of these pairs."""
    pairs, p = comparison.pairs, comparison.p_signflip
    if needs_all(comparison):
        return f"with {pairs} seeds the exact test needs all {pairs}"
    if pairs > ENUMERATED or p is None:
        return "as large a mean comes by chance too often"
    found, allowed = round(p * 2**pairs), math.floor(comparison.alpha * 2**pairs + 1e-9)
    return (
        f"of the {2**pairs:,} ways to sign the differences {found:,} give as large a mean, and the exact "
        f"test allows {allowed:,}"
    )


def compatible(comparison: Comparison) -> Interval | None:
    """Differences that the data leave open: the t interval; the hull of both where they lie apart.

    Where only the shared level forbids a claim, both are those at the level of one question.
    """
    numbers = comparison.statistics
    shared = comparison.holm is not None and not withholding(comparison)
    asked = (
        (numbers.interval_family, numbers.interval_family_exact)
        if shared
        else (numbers.interval, numbers.interval_exact)
    )
    known = [interval for interval in asked if interval is not None]
    if not known:
        return None
    apart = shared or len({_place(comparison, interval) for interval in known}) > 1
    return hull(known) if apart else known[0]


def hull(intervals: list[Interval]) -> Interval:
    """The smallest interval that holds them all."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _place(comparison: Comparison, interval: Interval) -> tuple[bool, ...]:
    """On which sides of 0 and of the harmful margin the interval has values."""
    lines = (0.0, (comparison.margin or 0.0) * comparison.endpoint.harm_sign)
    return tuple(side for line in lines for side in (interval[0] > line, interval[1] < line))
