"""Loss spikes of many runs at once: jumps above what was calm before, and how many episodes they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.ragged import Floats, deviations

CALM = 16
"""Calm points from which the noise is read, and after so many spikes in a row the new level is the calm."""
LEVEL = 3
"""Last calm points whose median is the level."""
SIGMAS = 6.0
SHARE = 0.05
"""A spike rises by more than six sigma and by more than this share of the level."""


@dataclass(frozen=True)
class Spikes:
    """Per run; NaN where a run is too short to tell."""

    spikes: NDArray[np.bool_]
    """[runs, points]: the points that are spikes."""
    episodes: Floats
    """Runs of consecutive spikes."""
    per_1000: Floats
    """Episodes per 1,000 optimizer steps, over the steps that could hold one."""


def spikes_of(values: Floats, steps: Floats) -> Spikes:
    """values, steps: [runs, points], in order, NaN behind a run's end (see ragged.while_finite).

    A spike lies above the median of the last 3 calm points by more than 6 sigma and by more than 5 % of that
    level; sigma is the MAD of the 15 first differences of the last 16 calm points, their median taken off,
    over sqrt 2. The first 16 points are calm. Consecutive spikes are one episode; with the 16th in a row the
    run has found a new level, which is calm from then on.
    """
    runs, points = values.shape
    found = np.zeros((runs, points), dtype=bool)
    calm = values[:, :CALM].copy()
    behind = np.zeros(runs, dtype=np.int64)
    for place in range(CALM, points):
        value = values[:, place]
        spike = value - np.median(calm[:, -LEVEL:], axis=1) > _bounds(calm)
        found[:, place] = spike
        behind = np.where(spike, behind + 1, 0)
        calm = np.where(spike[:, None], calm, np.concatenate([calm[:, 1:], value[:, None]], axis=1))
        settled = behind >= CALM
        if settled.any():
            calm[settled] = values[settled, place - CALM + 1 : place + 1]
            behind[settled] = 0
    return _counted(found, values, steps)


def _bounds(calm: Floats) -> Floats:
    """How far above its level each run must rise."""
    sigma = deviations(np.diff(calm, axis=1)) / np.sqrt(2)
    level = np.median(calm[:, -LEVEL:], axis=1)
    return np.asarray(np.maximum(SIGMAS * sigma, SHARE * np.abs(level)), dtype=np.float64)


def _counted(found: NDArray[np.bool_], values: Floats, steps: Floats) -> Spikes:
    begins = found.copy()
    begins[:, 1:] &= ~found[:, :-1]
    counts = np.count_nonzero(np.isfinite(values), axis=1)
    episodes = np.where(counts > CALM, begins.sum(axis=1), np.nan)
    if values.shape[1] <= CALM:
        return Spikes(found, episodes, episodes)
    last = np.take_along_axis(steps, np.maximum(counts - 1, 0)[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return Spikes(found, episodes, 1000.0 * episodes / (last - steps[:, CALM - 1]))
