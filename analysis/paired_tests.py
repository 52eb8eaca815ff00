"""What a handful of paired differences say: estimate, exact test, t test, and both intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis import signflip
from analysis.signflip import Floats

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
    scale: Literal["raw", "signed ranks"] = "raw"
    """signed ranks: some value is unbounded, so the exact test runs on ranks and the mean has no meaning."""
    lean: int = 0
    """Sign of the tested mean: 1, -1 or 0."""


def described(deltas: Floats) -> Statistics:
    """Mean, median and SD alone, for pairs that may not be tested."""
    if len(deltas) == 0 or not np.isfinite(deltas).all():
        return Statistics(scale="signed ranks" if len(deltas) else "raw")
    unit = _power_of_two(deltas)
    scaled = deltas / unit
    return Statistics(
        difference=_finite(float(scaled.mean()) * unit),
        median=_finite(float(np.median(scaled)) * unit),
        sd=_finite(float(scaled.std(ddof=1)) * unit) if len(deltas) > 1 else None,
    )


def tested(deltas: Floats, noise: float, alpha: float) -> Statistics:
    plain = described(deltas)
    if len(deltas) == 0:
        return plain
    if plain.scale == "signed ranks":
        ranks = signflip.signed_ranks(deltas)
        lean = int(np.sign(ranks.sum()))
        return Statistics(p_signflip=signflip.p_value(ranks), scale="signed ranks", lean=lean)
    unit = _power_of_two(deltas)
    scaled = deltas / unit
    mean, n = float(scaled.mean()), len(deltas)
    exact = signflip.interval(scaled, alpha)
    p_t, interval = None, None
    if n > 1 and varies(deltas, noise):
        error = float(scaled.std(ddof=1)) / math.sqrt(n)
        reach = float(stats.t.isf(alpha / 2, n - 1)) * error
        p_t = float(2 * stats.t.sf(abs(mean) / error, n - 1))
        interval = _scaled((mean - reach, mean + reach), unit)
    return Statistics(
        difference=plain.difference,
        median=plain.median,
        sd=plain.sd,
        p_signflip=signflip.p_value(scaled, noise / unit),
        p_t=p_t,
        interval=interval,
        interval_exact=None if exact is None else _scaled(exact, unit),
        lean=int(np.sign(mean)),
    )


def _power_of_two(deltas: Floats) -> float:
    """A unit that brings the deltas near 1 without rounding them, so that no square over- or underflows."""
    return math.ldexp(1.0, max(-1000, math.frexp(float(np.abs(deltas).max()))[1] - 1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _scaled(interval: Interval, unit: float) -> Interval | None:
    low, high = interval[0] * unit, interval[1] * unit
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def varies(deltas: Floats, noise: float) -> bool:
    return float(np.ptp(deltas)) > max(noise, 1e-12 * float(np.abs(deltas).max()))
