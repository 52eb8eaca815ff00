"""The exact test of a mean paired difference, and the interval that is dual to it.

Under the null the sign of every pair's difference is a fair coin. All 2^n signs are tried up to n = 16, a
seeded sample of them above. The interval holds the values that the test does not reject: order statistics
of the means of all subsets (Hartigan 1969).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.ragged import Floats

ENUMERATED = 16
"""Pairs up to which all signs are tried."""
DRAWS = 200_000
DRAW_SEED = 20_240_229


def floor_of(pairs: int) -> float:
    """The smallest two-sided p that the test can give."""
    enumerated = math.ldexp(2.0, -pairs)
    return min(1.0, enumerated) if pairs <= ENUMERATED else max(enumerated, 1.0 / (DRAWS + 1))


def p_value(deltas: Floats, noise: float = 0.0, mean: float = 0.0) -> float:
    """Two-sided p of the mean against `mean`. Sums closer than rounding (or `noise` per delta) are ties."""
    total, flipped, tie = _flipped(deltas, noise, mean)
    extreme = int(np.count_nonzero(np.abs(flipped) >= abs(total) - tie))
    if len(deltas) <= ENUMERATED:
        return extreme / len(flipped)
    return (extreme + 1) / (len(flipped) + 1)


def p_one_sided(deltas: Floats, noise: float, mean: float, side: int) -> float:
    """p that the mean lies beyond `mean` (side 1: above it): the share of signs that lie as far or farther.

    The signs observed count on either side. Drawn ones are counted with their mirror images, so that below
    one half this is half the two-sided p.
    """
    total, flipped, tie = _flipped(deltas, noise, mean)
    if len(deltas) > ENUMERATED:
        flipped = np.concatenate([flipped, -flipped, [total, -total]])
    return int(np.count_nonzero(flipped * side >= total * side - tie)) / len(flipped)


def _flipped(deltas: Floats, noise: float, mean: float) -> tuple[float, Floats, float]:
    """The sum of deltas - mean, that sum under every choice of signs, and how near to it is a tie."""
    total, sums, sizes = _subset_sums(deltas)
    if mean:
        total, sums = total - len(deltas) * mean, sums - sizes * mean
    tie = max(1e-12 * float(np.abs(deltas - mean).sum()), noise * len(deltas))
    return total, total - 2 * sums, tie


def interval(deltas: Floats, alpha: float) -> tuple[float, float] | None:
    """The means not rejected at alpha, as a closed interval; None where that is the whole line."""
    total, sums, sizes = _subset_sums(deltas)
    n = len(deltas)
    if n <= ENUMERATED:
        rank = math.floor(alpha * len(sums) / 2 + 1e-9) + 1
    else:
        rank = math.floor(alpha * (len(sums) + 1) + 1e-9)
        sums, sizes = np.concatenate([sums, total - sums]), np.concatenate([sizes, n - sizes])
    means = sums[sizes > 0] / sizes[sizes > 0]
    rank -= int(np.count_nonzero(sizes == 0))
    if rank < 1:
        return None
    ordered = np.partition(means, (rank - 1, len(means) - rank))
    return float(ordered[rank - 1]), float(ordered[len(means) - rank])


def signed_ranks(deltas: Floats) -> Floats:
    """Each delta's rank by size, with its sign; infinite ones rank highest, ties share their mean rank."""
    sizes = np.abs(deltas)
    finite = sizes[np.isfinite(sizes)]
    unit = float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    keys = np.where(np.isfinite(sizes), np.round(np.where(np.isfinite(sizes), sizes, 0.0) / unit, 12), np.inf)
    return np.asarray(np.where(keys == 0, 0.0, np.sign(deltas)) * rankdata(keys), dtype=np.float64)


def _subset_sums(deltas: Floats) -> tuple[float, Floats, NDArray[np.int64]]:
    """Sum of all deltas; sum and size of every subset that can be flipped (of drawn ones above 16)."""
    return _sums_of(tuple(deltas.tolist()))


@lru_cache(maxsize=16)  # p, interval and margin of one comparison ask for the same sums; 3 MB each
def _sums_of(values: tuple[float, ...]) -> tuple[float, Floats, NDArray[np.int64]]:
    deltas, n = np.array(values, dtype=np.float64), len(values)
    if n <= ENUMERATED:
        flipped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float(deltas.sum()), flipped @ deltas, flipped.sum(axis=1)
    # Eight signs are one random byte, and the sums of every byte's eight deltas are looked up.
    blocks = -(-n // 8)
    bits = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.float64)
    parts = [
        np.pad(column, (0, 8 * blocks - n)).reshape(blocks, 8) @ bits.T for column in (deltas, np.ones(n))
    ]
    rng = np.random.default_rng(DRAW_SEED)
    sums, sizes = np.zeros(DRAWS), np.zeros(DRAWS)
    for block in range(blocks):
        drawn = rng.integers(0, 256, DRAWS, dtype=np.uint8)
        sums += parts[0][block].take(drawn)
        sizes += parts[1][block].take(drawn)
    return float(deltas.sum()), sums, sizes.astype(np.int64)
