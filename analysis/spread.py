"""How far an arm's seeds lie apart, and whether one arm's lie further apart than the other's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.ragged import Floats

LEAST_PAIRS = 8
"""Pairs below which no spread is claimed to differ: the SD of a few seeds is uncertain by itself."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Two arms' SDs over the complete pairs. None where it cannot be computed."""

    pairs: int
    baseline_sd: float | None
    treatment_sd: float | None
    baseline_cv: float | None
    """SD over the size of the mean."""
    treatment_cv: float | None
    ratio: float | None
    """Treatment's SD over the baseline's."""
    ratio_interval: tuple[float, float] | None
    """Pitman-Morgan's, for normal values: for orientation; no claim rests on it."""


def spread_of(baseline: Floats, treatment: Floats, alpha: float) -> Spread:
    """baseline, treatment: one finite value per complete pair."""
    ours, theirs = sd_of(treatment), sd_of(baseline)
    ratio = ours / theirs if ours is not None and theirs else None
    return Spread(
        pairs=len(baseline),
        baseline_sd=theirs,
        treatment_sd=ours,
        baseline_cv=_cv(baseline, theirs),
        treatment_cv=_cv(treatment, ours),
        ratio=ratio if ratio is not None and math.isfinite(ratio) else None,
        ratio_interval=pitman_morgan(baseline, treatment, alpha),
    )


def distances(values: Floats) -> Floats:
    """Each value's distance from its arm's median, over the last axis.

    Brown and Forsythe's scores; their paired differences, tested by t and by sign-flips, keep their size
    where tails are heavy (Wilcox 1989).
    """
    return np.abs(values - np.median(values, axis=-1, keepdims=True)) if values.size else values


def pitman_morgan(baseline: Floats, treatment: Floats, alpha: float) -> tuple[float, float] | None:
    """The interval of the ratio of two SDs of paired normal values."""
    ours, theirs = sd_of(treatment), sd_of(baseline)
    n = len(baseline)
    if n < 3 or not ours or not theirs:
        return None
    r = float(np.clip(np.corrcoef(baseline / theirs, treatment / ours)[0, 1], -1.0, 1.0))
    bound = float(stats.t.isf(alpha / 2, n - 2))
    k = 1 + 2 * (1 - r * r) * bound**2 / (n - 2)
    reach = math.sqrt(k + math.sqrt(max(k * k - 1, 0.0)))
    ratio = ours / theirs
    low, high = ratio / reach, ratio * reach
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def sd_of(values: Floats) -> float | None:
    """None where it is beyond the range of floats, or there are fewer than two values."""
    if len(values) < 2:
        return None
    unit = float(np.abs(values).max()) or 1.0
    sd = float((values / unit).std(ddof=1)) * unit
    return sd if math.isfinite(sd) else None


def _cv(values: Floats, sd: float | None) -> float | None:
    unit = float(np.abs(values).max()) if len(values) else 0.0
    mean = abs(float((values / unit).mean()) * unit) if unit else 0.0
    cv = sd / mean if sd is not None and mean > 0 else math.nan
    return cv if math.isfinite(cv) else None
