"""Learning curves by arm: every run as far as it is finite, and the mean of those that are left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.endpoints import curves_of
from analysis.records import FAILURES


@dataclass(frozen=True, kw_only=True)
class ArmCurve:
    """One metric over one arm's runs. A run leaves the mean where its value is first not finite."""

    arm: str
    runs: pd.DataFrame
    """seed, step, wall_s [s], value: the finite part of every run."""
    mean: pd.DataFrame
    """step, wall_s (mean over runs), mean, low, high (pointwise t interval), n (runs that contribute)."""
    ends: pd.DataFrame
    """seed, status, step, wall_s, value: the last finite point of every run that failed."""
    planned: int

    @property
    def seeds(self) -> int:
        """Runs with at least one finite value."""
        return int(self.runs["seed"].nunique())


def arm_curves(
    metrics: pd.DataFrame, outcomes: pd.DataFrame, metric: str, split: str, alpha: float
) -> list[ArmCurve]:
    """Curves of one logged metric, arms in the order of `outcomes`; steps as logged, nothing interpolated."""
    rows = curves_of(metrics, metric, split).merge(
        outcomes[["trial_id", "attempt", "arm", "seed", "status"]], on=["trial_id", "attempt"]
    )
    finite = pd.Series(np.isfinite(rows["value"].to_numpy(float)), index=rows.index)
    rows = rows[finite.groupby(rows["trial_id"], observed=True).cummin()]
    return [
        _arm_curve(arm, rows[rows["arm"] == arm], int((outcomes["arm"] == arm).sum()), alpha)
        for arm in outcomes["arm"].drop_duplicates()
    ]


def _arm_curve(arm: str, rows: pd.DataFrame, planned: int, alpha: float) -> ArmCurve:
    columns = ["seed", "step", "wall_s", "value"]
    failed = rows[rows["status"].isin(FAILURES)].drop_duplicates("trial_id", keep="last")
    return ArmCurve(
        arm=arm,
        runs=rows[columns].sort_values(["seed", "step"], ignore_index=True),
        mean=_mean(rows, alpha),
        ends=failed[["seed", "status", "step", "wall_s", "value"]].sort_values("seed", ignore_index=True),
        planned=planned,
    )


def _mean(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    by_step = rows.groupby("step")
    table = by_step["value"].agg(mean="mean", sd="std", n="count").assign(wall_s=by_step["wall_s"].mean())
    n = table["n"].to_numpy(float)
    reach = np.full(len(n), np.nan)
    several = n > 1
    reach[several] = stats.t.isf(alpha / 2, n[several] - 1) * table["sd"].to_numpy(float)[several]
    reach[several] /= np.sqrt(n[several])
    table = table.assign(low=table["mean"] - reach, high=table["mean"] + reach).reset_index()
    columns = ["step", "wall_s", "mean", "low", "high", "n"]
    return pd.DataFrame(table, columns=columns)


def counts_text(curves: list[ArmCurve]) -> str:
    """ "flat n = 8 of 8; structured n = 8 of 8, 7 from step 600": how many runs stand behind the means."""
    return "; ".join(_count_text(curve) for curve in curves)


def _count_text(curve: ArmCurve) -> str:
    changes = curve.mean.loc[curve.mean["n"].diff() != 0, ["step", "n"]].to_numpy(int).tolist()
    if not changes:
        return f"{curve.arm} n = 0 of {curve.planned}"
    text = f"{curve.arm} n = {changes[0][1]} of {curve.planned}"
    shown = [f"{n} from step {step}" for step, n in changes[1:4]]
    more = ["and further changes"] if len(changes) > 4 else []
    return ", ".join([text, *shown, *more])
