"""The ladder of verdicts on many samples of one size at once, for simulations of size, power and coverage.

The same verdicts as verdicts.verdict_of row by row, which a test holds it to; margins are tested by shifting
the differences, which is dual to looking where the interval lies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis import signflip
from analysis.ragged import Floats

CHUNK = 2**20
"""Sums held at once."""


def p_signflip(samples: Floats, noise: float = 0.0) -> Floats:
    """Exact two-sided p of each row's mean; rows [S n] with n <= 16."""
    count, n = samples.shape
    if not 1 <= n <= signflip.ENUMERATED:
        raise ValueError(f"every sign is tried for 1 to {signflip.ENUMERATED} pairs, got {n}.")
    # Flipping all signs changes no |sum|, so the first sign may stay as it is.
    flips = ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1).astype(np.float64)
    ps, rows = np.empty(count), max(1, CHUNK // len(flips))
    for start in range(0, count, rows):
        part = samples[start : start + rows]
        total = part.sum(axis=1)
        tie = np.maximum(1e-12 * np.abs(part).sum(axis=1), noise * n)
        sums = part[:, 1:] @ flips.T
        extreme = np.abs(total[:, None] - 2 * sums) >= (np.abs(total) - tie)[:, None]
        ps[start : start + rows] = extreme.mean(axis=1)
    return ps


def p_t(samples: Floats) -> Floats:
    """Two-sided paired t test of each row; 1 where a row does not vary."""
    n = samples.shape[1]
    error = samples.std(axis=1, ddof=1) / math.sqrt(n)
    steady = np.ptp(samples, axis=1) <= 1e-12 * np.abs(samples).max(axis=1)
    ratio = np.abs(samples.mean(axis=1)) / np.where(steady, 1.0, error)
    return np.asarray(np.where(steady, 1.0, 2 * stats.t.sf(ratio, n - 1)), dtype=np.float64)


def verdicts_of(
    samples: Floats,
    *,
    alpha: float = 0.05,
    margin: float | None = None,
    harm_sign: int = 1,
    noise: float = 0.0,
) -> NDArray[np.str_]:
    """The verdict on each row of complete pairs: treatment - baseline, one per seed."""
    count, n = samples.shape
    if signflip.floor_of(n) > alpha:
        return np.full(count, "NOT TESTABLE")
    harms = samples * harm_sign
    steady = np.ptp(harms, axis=1) <= np.maximum(noise, 1e-12 * np.abs(harms).max(axis=1))
    lean = np.sign(harms.mean(axis=1))
    claimed = _rejected(harms, alpha, noise) & (lean != 0)
    rungs: list[tuple[Any, str]] = [
        (steady, "DEGENERATE"),
        (claimed & (lean > 0), "INFERIOR"),
        (claimed, "SUPERIOR"),
    ]
    if margin is not None:
        bounded = _rejected(harms - margin, alpha, noise) & (harms.mean(axis=1) < margin)
        both = bounded & _rejected(harms + margin, alpha, noise) & (harms.mean(axis=1) > -margin)
        rungs += [(both, "EQUIVALENT"), (bounded, "NON-INFERIOR")]
    conditions, names = zip(*rungs, strict=True)
    return np.select(list(conditions), list(names), default="INCONCLUSIVE")


def _rejected(samples: Floats, alpha: float, noise: float) -> NDArray[np.bool_]:
    """A mean of 0 is rejected by both tests."""
    return (p_signflip(samples, noise) <= alpha) & (p_t(samples) <= alpha)
