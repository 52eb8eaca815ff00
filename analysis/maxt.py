"""The max-|t| sign-flip test and band: what holds at every step of a difference curve at once.

A seed's whole curve of differences changes its sign together, so steps may hang together as they like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.ragged import Floats
from analysis.signflip import DRAW_SEED, ENUMERATED

DRAWS = 4_999
"""Sign patterns drawn above 16 pairs; every pattern up to there."""
CHUNK = 2**21
"""Sums held at once."""


@dataclass(frozen=True)
class MaxT:
    """Per step: t of the mean, and its p over the whole curve; NaN where there is no t."""

    t: Floats
    p: Floats
    """Share of sign patterns whose largest |t| over all steps reaches this step's |t|."""
    width: Floats
    """Standard errors from the mean to the edge of the band."""


def max_t(deltas: Floats, level: float) -> MaxT:
    """deltas: [pairs, steps], NaN where a pair has no difference.

    The band's width is the largest of three: the test's critical value, so that the band leaves 0 out only
    where p <= level; that of the residuals' sign-flips, for the test's own is too small where all steps carry
    an effect (a band of it covers 80 % where it says 95 %); and the pointwise t quantile.
    """
    counts = np.count_nonzero(~np.isnan(deltas), axis=0)
    scaled = deltas / units_of(deltas)
    means = np.nansum(scaled, axis=0) / np.maximum(counts, 1)
    steady = (counts < 2) | (np.nanmax(np.abs(scaled - means), axis=0, initial=0.0) <= 1e-12)
    t = np.full(len(counts), np.nan)
    p, width = t.copy(), t.copy()
    if steady.all():
        return MaxT(t, p, width)
    tested, several = scaled[:, ~steady], counts[~steady]
    t[~steady] = _t(np.nansum(tested, axis=0), np.nansum(tested**2, axis=0), several)
    highest = _highest(np.nan_to_num(tested), several)
    p[~steady] = _shares(highest, np.abs(t[~steady]), len(deltas))
    residuals = _highest(np.nan_to_num(tested - means[~steady]), several)
    edge = max(_critical(highest, level, len(deltas)), _critical(residuals, level, len(deltas)))
    width[~steady] = np.maximum(edge, stats.t.isf(level / 2, several - 1))
    return MaxT(t, p, width)


def units_of(deltas: Floats) -> Floats:
    """Every step's largest difference: in this unit no square over- or underflows, and no t changes."""
    largest = np.nanmax(np.abs(deltas), axis=0, initial=0.0)
    return np.asarray(np.where(largest > 0, largest, 1.0), dtype=np.float64)


def _t(sums: Floats, squares: Floats, counts: NDArray[np.int64]) -> Floats:
    """t from the sum and the sum of squares of each step's differences; a flip leaves the latter as it is."""
    left = np.maximum(counts * squares - sums**2, 1e-300)
    return np.asarray(sums * np.sqrt((counts - 1) / left), dtype=np.float64)


def _highest(deltas: Floats, counts: NDArray[np.int64]) -> Floats:
    """The largest |t| over the steps under every sign pattern."""
    squares = (deltas**2).sum(axis=0)
    flips = _flips(len(deltas))
    rows = max(1, CHUNK // deltas.shape[1])
    parts = [
        np.abs(_t(flips[start : start + rows] @ deltas, squares, counts)).max(axis=1)
        for start in range(0, len(flips), rows)
    ]
    return np.concatenate(parts)


def _flips(pairs: int) -> Floats:
    """Every pattern whose first sign is +, for its opposite gives the same |t|; drawn ones above 16."""
    if pairs <= ENUMERATED:
        bits = (np.arange(2 ** (pairs - 1))[:, None] >> np.arange(pairs)) & 1
    else:
        bits = np.random.default_rng(DRAW_SEED).integers(0, 2, size=(DRAWS, pairs))
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


def _shares(highest: Floats, sizes: Floats, pairs: int) -> Floats:
    """Per size, the share of patterns that reach it."""
    ordered = np.sort(highest)
    reach = len(ordered) - np.searchsorted(ordered, sizes * (1 - 1e-9))
    return reach / len(ordered) if pairs <= ENUMERATED else (reach + 1) / (len(ordered) + 1)


def _critical(highest: Floats, level: float, pairs: int) -> float:
    """The size that must be passed, so that its share of patterns is at most the level."""
    total = len(highest)
    allowed = level * total if pairs <= ENUMERATED else level * (total + 1) - 1
    allowed = math.floor(allowed + 1e-9)
    return math.inf if allowed < 0 else float(np.sort(highest)[total - 1 - min(allowed, total - 1)])
