"""Whether paired differences lean to one side: what makes every test of their mean claim too often."""

from __future__ import annotations

from math import comb

import numpy as np

from analysis.paired_tests import power_of_two, varies
from analysis.ragged import Floats

SIZES = range(6, 101)
"""Pairs at which it is asked: fewer claim nothing, and with more the mean is near normal by itself."""
CRITICAL = 1.5
"""Of |z|: one in ten sets of normal differences lies beyond it at 6 to 16 pairs (benchmarks.skew)."""


def skew_of(deltas: Floats, noise: float) -> float | None:
    """triples_z of one contrast's differences; None where it is not asked, or they do not vary."""
    if len(deltas) not in SIZES or not varies(deltas, noise):
        return None
    unit = power_of_two(deltas)
    return float(triples_z(deltas / unit, noise / unit))


def triples_z(values: Floats, noise: float = 0.0) -> Floats:
    """z of the triples test of symmetry about an unknown centre, over the last axis; above 0: a tail upwards.

    values: [..., n], n of 3 or more. Every three values lean to where their middle one is not; sums closer
    than `noise` lean nowhere. Source: Randles, Fligner, Policello and Wolfe 1980 (JASA 75:168-172).
    """
    n = values.shape[-1]
    leans = _leans(values, noise)
    mean = leans.sum(axis=(-3, -2, -1)) / (n * (n - 1) * (n - 2))
    ones = leans.sum(axis=(-2, -1)) / ((n - 1) * (n - 2))
    twos = leans.sum(axis=-1) / (n - 2)
    apart = 1 - np.eye(n)
    shares = (
        ((ones - mean[..., None]) ** 2).mean(axis=-1),
        ((twos - mean[..., None, None]) ** 2 * apart).sum(axis=(-2, -1)) / (n * (n - 1)),
        1 / 9 - mean**2,
    )
    variance = sum(comb(3, k) * comb(n - 3, 3 - k) * share for k, share in enumerate(shares, 1)) / comb(n, 3)
    return np.asarray(mean / np.sqrt(np.maximum(variance, 1e-12)))


def _leans(values: Floats, noise: float) -> Floats:
    """[..., n n n]: 1/3 where three have their tail upwards, -1/3 downwards; 0 for one of them twice."""
    a, b, c = values[..., :, None, None], values[..., None, :, None], values[..., None, None, :]
    thirds = ((a, b, c), (a, c, b), (b, c, a))
    signs = sum(_sign(one + other - 2 * third, 4 * noise) for one, other, third in thirds)
    same = np.eye(values.shape[-1], dtype=bool)
    return np.where(same[:, :, None] | same[:, None, :] | same[None, :, :], 0.0, signs / 3)


def _sign(sums: Floats, noise: float) -> Floats:
    return np.where(np.abs(sums) <= noise, 0.0, np.sign(sums))
