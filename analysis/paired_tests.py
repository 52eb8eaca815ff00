"""What a handful of paired differences say: estimate, exact test, t test, and both intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from analysis import signflip
from analysis.ragged import Floats

Interval = tuple[float, float]

ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""What a difference of two numbers of size 1 may owe to rounding."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the complete pairs say. None where it cannot be computed."""

    difference: float | None = None
    median: float | None = None
    sd: float | None = None
    p_signflip: float | None = None
    p_t: float | None = None
    interval: Interval | None = None
    interval_exact: Interval | None = None
    interval_family: Interval | None = None
    """At 1 - alpha / size of the family; the same as `interval` in a family of one."""
    interval_family_exact: Interval | None = None
    scale: Literal["raw", "signed ranks"] = "raw"
    """signed ranks: some value is unbounded, so the exact test runs on ranks and the mean has no meaning."""
    lean: int = 0
    """Sign of the tested mean: 1, -1 or 0."""


def described(deltas: Floats) -> Statistics:
    """Mean, median and SD alone, for pairs that may not be tested."""
    if len(deltas) == 0 or not np.isfinite(deltas).all():
        return Statistics(scale="signed ranks" if len(deltas) else "raw")
    unit = power_of_two(deltas)
    scaled = deltas / unit
    return Statistics(
        difference=_finite(float(scaled.mean()) * unit),
        median=_finite(float(np.median(scaled)) * unit),
        sd=_finite(float(scaled.std(ddof=1)) * unit) if len(deltas) > 1 else None,
    )


def tested(deltas: Floats, noise: float, alpha: float, family: int) -> Statistics:
    """Both tests and both intervals; family: questions that share alpha, for intervals that hold at once."""
    plain = described(deltas)
    if len(deltas) == 0:
        return plain
    if plain.scale == "signed ranks":
        ranks = signflip.signed_ranks(deltas)
        lean = int(np.sign(ranks.sum()))
        return Statistics(p_signflip=signflip.p_value(ranks), scale="signed ranks", lean=lean)
    unit = power_of_two(deltas)
    scaled = deltas / unit
    mean, n = float(scaled.mean()), len(deltas)
    p_t = None
    if n > 1 and varies(deltas, noise):
        p_t = float(2 * stats.t.sf(abs(mean) / (float(scaled.std(ddof=1)) / math.sqrt(n)), n - 1))
    interval, exact = _intervals(deltas, noise, alpha)
    wide, wide_exact = (interval, exact) if family == 1 else _intervals(deltas, noise, alpha / family)
    return replace(
        plain,
        p_signflip=signflip.p_value(scaled, noise / unit),
        p_t=p_t,
        interval=interval,
        interval_exact=exact,
        interval_family=wide,
        interval_family_exact=wide_exact,
        lean=int(np.sign(mean)),
    )


def estimated(deltas: Floats, noise: float, alpha: float) -> Statistics:
    """Estimates and intervals without a test, for a question that nobody named before the run.

    The exact interval only where all signs can be tried: where they are drawn it takes a second.
    """
    plain = described(deltas)
    if plain.difference is None:
        return plain
    interval = _t_interval(deltas, noise, alpha)
    exact = _exact_interval(deltas, alpha) if len(deltas) <= signflip.ENUMERATED else None
    return replace(plain, interval=interval, interval_exact=exact)


def _intervals(deltas: Floats, noise: float, alpha: float) -> tuple[Interval | None, Interval | None]:
    return _t_interval(deltas, noise, alpha), _exact_interval(deltas, alpha)


def _t_interval(deltas: Floats, noise: float, alpha: float) -> Interval | None:
    """None where nothing varies."""
    n = len(deltas)
    if n < 2 or not varies(deltas, noise):
        return None
    unit = power_of_two(deltas)
    scaled = deltas / unit
    reach = float(stats.t.isf(alpha / 2, n - 1)) * float(scaled.std(ddof=1)) / math.sqrt(n)
    mean = float(scaled.mean())
    return _scaled((mean - reach, mean + reach), unit)


def _exact_interval(deltas: Floats, alpha: float) -> Interval | None:
    """None where that is the whole line."""
    unit = power_of_two(deltas)
    exact = signflip.interval(deltas / unit, alpha)
    return None if exact is None else _scaled(exact, unit)


def power_of_two(deltas: Floats) -> float:
    """A unit that brings the deltas near 1 without rounding them, so that no square over- or underflows."""
    return math.ldexp(1.0, max(-1000, math.frexp(float(np.abs(deltas).max()))[1] - 1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _scaled(interval: Interval, unit: float) -> Interval | None:
    low, high = interval[0] * unit, interval[1] * unit
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def varies(deltas: Floats, noise: float) -> bool:
    return float(np.ptp(deltas)) > max(noise, 1e-12 * float(np.abs(deltas).max()))


@dataclass(frozen=True, kw_only=True)
class MarginTest:
    """One-sided p of the differences against the margin, to be held against alpha / 2."""

    p_noninferiority: float
    """Paired t: the harm is the margin or more."""
    p_noninferiority_exact: float
    """The same by sign-flips."""
    p_equivalence: float
    """Paired t twice (TOST): the larger p of both sides."""
    p_equivalence_exact: float


def margin_test(deltas: Floats, noise: float, margin: float, harm_sign: int) -> MarginTest | None:
    """Non-inferiority and equivalence; None where the differences do not vary or are unbounded."""
    if len(deltas) < 2 or not np.isfinite(deltas).all() or not varies(deltas, noise):
        return None
    unit = power_of_two(deltas)
    scaled, bound = deltas / unit, margin * harm_sign / unit
    # Harm below the margin: the mean lies on that side of it to which less harm is.
    below, below_exact = _one_sided(scaled, noise / unit, bound, -harm_sign)
    above, above_exact = _one_sided(scaled, noise / unit, -bound, harm_sign)
    return MarginTest(
        p_noninferiority=below,
        p_noninferiority_exact=below_exact,
        p_equivalence=max(below, above),
        p_equivalence_exact=max(below_exact, above_exact),
    )


def _one_sided(deltas: Floats, noise: float, bound: float, side: int) -> tuple[float, float]:
    """p that the mean lies on this side of the bound (1: above): by t, and by sign-flips."""
    n, beyond = len(deltas), (float(deltas.mean()) - bound) * side
    by_t = float(stats.t.sf(beyond / (float(deltas.std(ddof=1)) / math.sqrt(n)), n - 1))
    return by_t, signflip.p_one_sided(deltas, noise, bound, side)
