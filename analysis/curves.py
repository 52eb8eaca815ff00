"""Learning curves by arm: every run as far as it is finite, and the mean of those that are left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.ragged import Floats, of_runs
from analysis.records import FAILURES

TIMES = 200
"""Most times at which a mean by wall time stands: quantiles of all the times that runs reported at."""


@dataclass(frozen=True, kw_only=True)
class ArmCurve:
    """One metric over one arm's runs. A run leaves the mean where its value is first not finite."""

    arm: str
    runs: pd.DataFrame
    """seed, step, tokens, wall_s [s], value: the finite part of every run."""
    mean: pd.DataFrame
    """step, tokens, wall_s (means over runs), mean, low, high (pointwise t interval), n (runs behind it).
    Along tokens, these are the grid and step is a mean."""
    by_time: pd.DataFrame
    """wall_s, mean, low, high, n: of what every run had last reported by that time."""
    ends: pd.DataFrame
    """seed, status, step, wall_s, value: the last finite point of every run that failed."""
    planned: int

    @property
    def seeds(self) -> int:
        """Runs with at least one finite value."""
        return int(self.runs["seed"].nunique())


def arm_curves(
    rows: pd.DataFrame,
    outcomes: pd.DataFrame,
    alpha: float,
    along: Literal["step", "tokens"] = "step",
) -> list[ArmCurve]:
    """One logged metric's curves by arm (`rows`: see Experiment.curves), arms in the order of `outcomes`.

    The mean stands at every step (or count of tokens) that any run logged, over the runs that logged it:
    nothing is interpolated.
    """
    known = outcomes[["trial_id", "attempt", "arm", "seed", "status"]]
    rows = of_runs(rows, known.astype({"arm": "category", "status": "category"}))
    finite = pd.Series(np.isfinite(rows["value"].to_numpy(float)), index=rows.index)
    rows = rows[finite.groupby(rows["trial_id"], observed=True).cummin()]
    return [
        _arm_curve(arm, rows[rows["arm"] == arm], int((outcomes["arm"] == arm).sum()), alpha, along)
        for arm in outcomes["arm"].drop_duplicates()
    ]


def _arm_curve(arm: str, rows: pd.DataFrame, planned: int, alpha: float, along: str) -> ArmCurve:
    columns = ["seed", "step", "tokens", "wall_s", "value"]
    failed = rows[rows["status"].isin(FAILURES)].drop_duplicates("trial_id", keep="last")
    return ArmCurve(
        arm=arm,
        runs=rows[columns].sort_values(["seed", "step"], ignore_index=True),
        mean=_mean(rows, alpha, along),
        by_time=_by_time(rows, alpha),
        ends=failed[["seed", "status", "step", "wall_s", "value"]].sort_values("seed", ignore_index=True),
        planned=planned,
    )


def _mean(rows: pd.DataFrame, alpha: float, along: str) -> pd.DataFrame:
    groups = rows.groupby(along)
    table = groups["value"].agg(mean="mean", sd="std", n="count")
    for other in {"step", "tokens", "wall_s"} - {along}:
        table[other] = groups[other].mean()
    low, high = t_band(table["mean"], table["sd"], table["n"], alpha)
    columns = ["step", "tokens", "wall_s", "mean", "low", "high", "n"]
    return pd.DataFrame(table.assign(low=low, high=high).reset_index(), columns=columns)


def t_band(mean: Any, sd: Any, n: Any, alpha: float) -> tuple[Floats, Floats]:
    """The pointwise t interval; NaN where one run stands alone."""
    mean, sd, n = (np.asarray(numbers, dtype=np.float64) for numbers in (mean, sd, n))
    reach = np.full(len(n), np.nan)
    several = n > 1
    reach[several] = stats.t.isf(alpha / 2, n[several] - 1) * sd[several] / np.sqrt(n[several])
    return mean - reach, mean + reach


def _by_time(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """A run counts from its first report on; one that completed keeps its last value, another leaves."""
    rows = rows[rows["wall_s"].notna()]
    every, values = rows["wall_s"].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
    times = np.unique(np.quantile(every, np.linspace(0, 1, TIMES), method="nearest")) if len(every) else every
    trials = rows["trial_id"].astype("category").cat.codes.to_numpy()
    order = np.lexsort((every, trials))
    runs = np.split(order, np.flatnonzero(np.diff(trials[order])) + 1) if len(every) else []
    completed = (rows["status"] == "completed").to_numpy()
    held = np.full((len(runs), len(times)), np.nan)
    for line, run in zip(held, runs, strict=True):
        place = np.searchsorted(every[run], times, side="right") - 1
        there = (place >= 0) & ((times <= every[run[-1]]) | completed[run[0]])
        line[there] = values[run[place[there]]]
    table = pd.DataFrame(held.T)
    mean, n = table.mean(axis=1), table.count(axis=1)
    low, high = t_band(mean, table.std(axis=1, ddof=1), n, alpha)
    found = pd.DataFrame({"wall_s": times, "mean": mean, "low": low, "high": high, "n": n})
    return found[found["n"] > 0].reset_index(drop=True)


def smoothed(curve: ArmCurve, points: int) -> ArmCurve:
    """For figures alone: every line a centred running mean over so many of its points; 1 changes nothing."""
    if points <= 1:
        return curve

    def running(column: pd.Series[float]) -> pd.Series[float]:
        return column.rolling(points, center=True, min_periods=1).mean()

    values = curve.runs.groupby("seed")["value"].transform(running)
    lines = ["mean", "low", "high"]
    mean, by_time = (table.assign(**table[lines].apply(running)) for table in (curve.mean, curve.by_time))
    return replace(curve, runs=curve.runs.assign(value=values), mean=mean, by_time=by_time)


def smoothing_text(points: int) -> str:
    """What a caption says of it."""
    if points <= 1:
        return "Nothing is smoothed"
    return f"Smoothed for display by a running mean over {points} points; no number is read from it"


def counts_text(curves: list[ArmCurve]) -> str:
    """ "flat n = 8 of 8; structured n = 8 of 8, 7 from step 600": how many runs stand behind the means."""
    return "; ".join(_count_text(curve) for curve in curves)


def _count_text(curve: ArmCurve) -> str:
    return f"{curve.arm} {n_text(curve.mean, f'of {curve.planned}')}"


def n_text(table: pd.DataFrame, unit: str) -> str:
    """ "n = 8 pairs, 7 from step 600": how `n` changes over `step`."""
    changed = table[table["n"].diff() != 0]
    changes = list(zip(changed["step"].tolist(), changed["n"].tolist(), strict=True))
    if not changes:
        return f"n = 0 {unit}"
    shown = [f"{n} from step {step}" for step, n in changes[1:4]]
    more = ["and further changes"] if len(changes) > 4 else []
    return ", ".join([f"n = {changes[0][1]} {unit}", *shown, *more])
