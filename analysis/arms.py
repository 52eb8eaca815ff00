"""How each arm's runs went: one row per arm, from one number per run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.ragged import Ragged, quantiles
from analysis.records import ADMINISTRATIVE, FAILURES
from analysis.spread import sd_of

PARAMETERS = ("student_params", "trainable_params", "aligner_params")


def arms_table(outcomes: pd.DataFrame, gradients: pd.DataFrame, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One dict per arm in planned order, None where nothing is known.

    gradients: the curves of grad_norm. runs: one row per attempt.

    n, mean, sd, min, max, median: endpoint over completed runs (mean and SD None where a value is unbounded).
    planned, failures, lost: counts of runs. failure_rate: failures / planned. retries: attempts that failed
    and were followed by another; interruptions: attempts cancelled or preempted and followed by another.
    first_nonfinite_step: earliest over runs. grad_norm_ratio: median over runs of p99 / p50 of the logged
    gradient norm. wall_s, tokens_per_s: medians; peak_mem_bytes: largest. Parameters: counts.
    """
    ratios = gradient_ratios(gradients)
    table = outcomes.assign(grad_norm_ratio=outcomes["trial_id"].map(ratios), **_earlier(outcomes, runs))
    return [_arm_row(str(arm), rows) for arm, rows in table.groupby("arm", sort=False)]


def earlier_attempts(runs: pd.DataFrame) -> pd.DataFrame:
    """Of a table of attempts those that another one of the same run followed."""
    ordered = runs.sort_values("attempt", kind="stable")
    return ordered[ordered.duplicated("trial_id", keep="last")]


def _earlier(outcomes: pd.DataFrame, runs: pd.DataFrame) -> dict[str, pd.Series[int]]:
    """Per run, its attempts before the last: how many failed, and how many were cut short by others."""
    before = earlier_attempts(runs)
    found = {}
    for name, statuses in (("retries", FAILURES), ("interruptions", ADMINISTRATIVE)):
        counts = before.loc[before["status"].isin(statuses), "trial_id"].value_counts()
        found[name] = outcomes["trial_id"].map(counts).fillna(0).astype("int64")
    return found


def with_reasons(row: dict[str, Any]) -> dict[str, Any]:
    """An arm's row for JSON: with `why_null`."""
    return {**row, "why_null": {name: _reason(row, name) for name, value in row.items() if value is None}}


def _reason(row: dict[str, Any], name: str) -> str:
    if name == "first_nonfinite_step":
        return "no run recorded one"
    if name not in ("mean", "sd", "median", "min", "max"):
        return "no run recorded it"
    if not row["n"]:
        return "no run completed with the endpoint"
    if name == "sd" and row["n"] == 1:
        return "one run has no spread"
    return "it is unbounded: a run never reached the threshold, or the values exceed the range of floats"


def _arm_row(arm: str, rows: pd.DataFrame) -> dict[str, Any]:
    failures = int(rows["status"].isin(FAILURES).sum())
    return {
        "arm": arm,
        "planned": len(rows),
        **_spread(rows["value"].dropna().to_numpy(float)),
        "failures": failures,
        "failure_rate": failures / len(rows),
        "lost": int(rows["status"].isin(ADMINISTRATIVE).sum()),
        "retries": int(rows["retries"].sum()),
        "interruptions": int(rows["interruptions"].sum()),
        "first_nonfinite_step": _whole(_numbers(rows, "first_nonfinite_step").min()),
        "grad_norm_ratio": _median(_numbers(rows, "grad_norm_ratio")),
        "wall_s": _median(_numbers(rows, "wall_s")),
        "tokens_per_s": _median(_numbers(rows, "tokens_per_s")),
        "peak_mem_bytes": _whole(_numbers(rows, "peak_mem_bytes").max()),
        **{name: _whole(_numbers(rows, name).max()) for name in PARAMETERS},
    }


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    bounded = len(values) > 0 and bool(np.isfinite(values).all())
    unit = float(np.abs(values).max()) or 1.0 if bounded else 1.0
    return {
        "n": len(values),
        "mean": _known(float((values / unit).mean()) * unit) if bounded else None,
        "sd": sd_of(values) if bounded else None,
        "median": _known(float(np.median(values))) if len(values) else None,
        "min": _known(float(values.min())) if len(values) else None,
        "max": _known(float(values.max())) if len(values) else None,
    }


def gradient_ratios(rows: pd.DataFrame) -> dict[str, float]:
    """Trial -> p99 / p50 of its finite gradient norms: near 1 is calm, large is spiky."""
    runs = Ragged.of(rows[np.isfinite(rows["value"].to_numpy(float)) & (rows["value"] > 0)])
    norms = runs.matrix("value")
    ratios = quantiles(norms, 0.99) / quantiles(norms, 0.5)
    return dict(zip(runs.keys["trial_id"].astype(str), ratios.tolist(), strict=True))


def _numbers(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    if column not in rows.columns:
        return pd.Series(dtype="float64")
    return pd.to_numeric(rows[column], errors="coerce").astype("float64").dropna()


def _median(values: pd.Series[float]) -> float | None:
    return None if values.empty else _known(float(values.median()))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _whole(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None
