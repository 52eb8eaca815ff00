"""Marks that several figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.endpoints import Endpoint
from analysis.figures.draft import Styles
from analysis.ragged import Floats

MOST_POINTS = 300
"""Points of one line, or of one arm, that are drawn: more cannot be told apart at two columns' width."""


def drawable(value: float | None) -> float:
    """NaN leaves a gap where a value is unbounded."""
    return value if value is not None and np.isfinite(value) else np.nan


def two_lines(endpoint: Endpoint) -> str:
    """An axis: quantity, unit, direction."""
    return f"{endpoint.quantity} ({endpoint.unit})\n{endpoint.better}"


def fan(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fixed sideways places, so that points neither hide each other nor move between two runs."""
    return np.linspace(-0.16, 0.16, count) if count > 1 else np.zeros(count)


def key_shape(arms: Sequence[str], *, narrow: bool) -> tuple[int, int]:
    """Columns of a legend of arms, and the signs to a line of its labels."""
    longest = max((len(arm) for arm in arms), default=0)
    if longest <= 12:
        return (2 if narrow else 4), 12
    return (1 if narrow else 2), 24


def arm_lines(styles: Styles, arms: Sequence[str]) -> dict[str, Line2D]:
    """A legend's entries."""
    return {arm: Line2D([], [], color=styles[arm].colour, ls=styles[arm].dashes, lw=1.7) for arm in arms}


def thinned(table: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most so many rows, evenly spaced, first and last among them."""
    if len(table) <= most:
        return table
    return table.iloc[_evenly(len(table), most)]


def spread(values: Floats) -> NDArray[np.intp]:
    """Which of the finite values are drawn as points: at most so many, evenly spaced by rank with the least
    and the greatest among them, in the order given."""
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= MOST_POINTS:
        return finite
    ranked = finite[np.argsort(values[finite], kind="stable")]
    return np.sort(ranked[_evenly(len(ranked), MOST_POINTS)])


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """So many of more places, the first and the last among them; a step over 1 rounds to no place twice."""
    return np.linspace(0, count - 1, most).round().astype(np.intp)


def spread_text(points: int) -> str:
    """What a caption says where the largest group has more points than are drawn of it."""
    if points <= MOST_POINTS:
        return ""
    return (
        f" Of a group of up to {points:,} points {MOST_POINTS} are drawn, evenly by rank, the least and the "
        "greatest among them; every number stands in the table."
    )


def thinning_text(points: int) -> str:
    """What a caption says where lines are thinned."""
    return (
        f" Drawn: {MOST_POINTS} of {points:,} points a line, evenly spaced." if points > MOST_POINTS else ""
    )
