"""Rows of many runs in order, and as matrices, a line per run: what it logged, and NaN behind its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.plan import ResultsError

Floats = NDArray[np.float64]
PLACE = ["trial_id", "attempt", "step"]
COLUMNS = [*PLACE, "tokens", "wall_s", "value"]


def curves_of(metrics: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """One metric's rows, sorted by trial, attempt and step and unique by them; trial_id is a category.

    A value that stands there twice counts once, as first logged. Two different ones leave the record without
    a curve, and nothing says which is right: ResultsError.
    """
    mask = (metrics["metric"] == metric) & (metrics["split"] == split)
    rows = metrics.reindex(columns=COLUMNS)[mask]
    rows = rows.assign(trial_id=rows["trial_id"].astype("category"))
    rows = rows.iloc[np.lexsort(_keys(rows)[::-1])].reset_index(drop=True)
    repeated = np.logical_and.reduce([key[1:] == key[:-1] for key in _keys(rows)])
    if not repeated.any():
        return rows
    rows = rows.sort_values([*PLACE, "tokens", "wall_s", "value"]).drop_duplicates(
        [*PLACE, "value"], ignore_index=True
    )
    contradicted = rows[rows.duplicated(PLACE)]
    if len(contradicted):
        second = contradicted.iloc[0]
        first = rows.iloc[contradicted.index[0] - 1]
        more = f" (and {len(contradicted) - 1} more such values)" if len(contradicted) > 1 else ""
        raise ResultsError(
            f"metrics.parquet has two values of {metric} ({split}) for {second['trial_id']} at step "
            f"{second['step']} of attempt {second['attempt']}, {first['value']:g} and {second['value']:g}"
            f"{more}: collect the trials again, or leave all but one record of that run out."
        )
    return rows


def of_runs(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows whose trial_id and attempt `runs` has, with its columns.

    Joined by the codes of the trials: a million rows joined by their names take a second.
    """
    trials = runs["trial_id"].astype("category").cat.set_categories(rows["trial_id"].cat.categories)
    return rows.merge(runs.assign(trial_id=trials), on=["trial_id", "attempt"])


def _keys(rows: pd.DataFrame) -> list[NDArray[np.int64]]:
    return [rows["trial_id"].cat.codes.to_numpy(), rows["attempt"].to_numpy(), rows["step"].to_numpy()]


@dataclass(frozen=True)
class Ragged:
    """Where each run's rows lie in a table that is sorted by run and step."""

    rows: pd.DataFrame
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Ragged:
        """`rows` as curves_of hands them on."""
        trial = rows["trial_id"].astype("category").cat.codes.to_numpy()
        attempt = rows["attempt"].to_numpy()
        if not len(rows):
            return cls(rows, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        new = np.r_[True, (trial[1:] != trial[:-1]) | (attempt[1:] != attempt[:-1])]
        starts = np.flatnonzero(new)
        return cls(rows, starts, np.diff(np.r_[starts, len(rows)]))

    @property
    def keys(self) -> pd.DataFrame:
        """trial_id and attempt of every run."""
        firsts = self.rows[["trial_id", "attempt"]].iloc[self.starts].reset_index(drop=True)
        return firsts.assign(trial_id=firsts["trial_id"].astype(object))

    def column(self, name: str) -> Floats:
        return self.rows[name].to_numpy(np.float64)

    def matrix(self, name: str) -> Floats:
        """[runs, most points]: a run's values from the left, NaN behind them."""
        lines = np.repeat(np.arange(len(self.starts)), self.counts)
        places = np.arange(len(self.rows)) - np.repeat(self.starts, self.counts)
        matrix = np.full((len(self.starts), int(self.counts.max(initial=0))), np.nan)
        matrix[lines, places] = self.column(name)
        return matrix


def while_finite(matrix: Floats) -> Floats:
    """Each line up to its first value that is not finite; NaN from there on."""
    return np.where(np.logical_and.accumulate(np.isfinite(matrix), axis=1), matrix, np.nan)


def quantiles(matrix: Floats, share: float) -> Floats:
    """Each line's quantile over its numbers, between neighbours in proportion; NaN for a line of none."""
    if not matrix.size:
        return np.full(len(matrix), np.nan)
    ordered = np.sort(matrix, axis=1)
    places = np.maximum(np.count_nonzero(~np.isnan(matrix), axis=1) - 1, 0) * share
    lower = np.floor(places).astype(np.int64)
    upper = np.ceil(places).astype(np.int64)
    lines = np.arange(len(matrix))
    low, high = ordered[lines, lower], ordered[lines, upper]
    return np.asarray(low + (high - low) * (places - lower), dtype=np.float64)


def medians(matrix: Floats) -> Floats:
    return quantiles(matrix, 0.5)


def deviations(matrix: Floats) -> Floats:
    """Each line's median absolute deviation from its median, times 1.4826: the SD, were it normal."""
    return 1.4826 * medians(np.abs(matrix - medians(matrix)[:, None]))
