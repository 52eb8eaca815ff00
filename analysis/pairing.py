"""The paired table, built from the plan outwards: every planned seed of a contrast, whatever became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.endpoints import Endpoint, extract
from analysis.records import ADMINISTRATIVE, FAILURES, Experiment

Kind = Literal["paired", "failed", "lost", "no endpoint"]


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """What became of one planned seed in both arms."""

    seed: int
    kind: Kind
    baseline_status: str
    treatment_status: str
    baseline: float | None
    """None where there is no endpoint; +inf where steps_to_N was never reached."""
    treatment: float | None
    delta: float | None
    """treatment - baseline; None unless the seed is paired."""
    baseline_attempts: int = 1
    """Attempts started; the last one counts."""
    treatment_attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One contrast on one endpoint: one row per planned seed."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    rows: pd.DataFrame
    """seed, kind, delta (treatment - baseline, of paired rows), and per side (`treatment_`, `baseline_`):
    status, value, gap, points, last_step, planned_steps, hashes, tokens_seen, trial_id."""

    def seed_rows(self) -> tuple[SeedRow, ...]:
        return tuple(_seed_row(row) for row in self.rows.to_dict("records"))


def outcomes(experiment: Experiment, endpoint: Endpoint) -> pd.DataFrame:
    """One row per planned cell, whatever became of it: its last attempt and its endpoint.

    status: as recorded, except that `completed` with a non-finite endpoint is `diverged`. value: NaN unless
    the trial completed; +inf where steps_to_N was never reached. gap: why a completed trial has no value.
    attempts: attempts started.
    """
    table = _with_last_attempt(experiment)
    found = extract(experiment.curves(endpoint.source, endpoint.split), endpoint)
    table = table.merge(found, on=["trial_id", "attempt"], how="left", validate="one_to_one")
    completed = (table["status"] == "completed").to_numpy()
    values = table["value"].to_numpy(float)
    gap = table["gap"].where(table["gap"].notna(), f"no {endpoint.source} was logged").astype(object)
    has_endpoint = completed & (gap == "").to_numpy()
    allowed = np.isfinite(values) | ((values == np.inf) & (endpoint.threshold is not None))
    broken = has_endpoint & ~allowed
    status = table["status"].astype(object)
    reason = table["failure_reason"].astype(object)
    return table.assign(
        value=np.where(has_endpoint & allowed, values, np.nan),
        gap=gap.where(completed, ""),
        status=status.where(~broken, "diverged"),
        failure_reason=reason.where(~broken, f"{endpoint.source} is not finite at the endpoint"),
    )


def _with_last_attempt(experiment: Experiment) -> pd.DataFrame:
    runs = experiment.runs.sort_values(["trial_id", "attempt"], ignore_index=True)
    started = runs[runs["status"] != "not_run"].groupby("trial_id").size().rename("attempts").reset_index()
    last = runs.drop_duplicates("trial_id", keep="last").drop(columns=["arm", "seed"])
    planned = pd.DataFrame(
        [(cell.trial_id, cell.arm, cell.seed, cell.config_hash) for cell in experiment.plan.cells],
        columns=["trial_id", "arm", "seed", "planned_config_hash"],
    )
    table = planned.merge(last, on="trial_id", how="left").merge(started, on="trial_id", how="left")
    return table.assign(
        status=table["status"].where(table["status"].notna(), "not_run").astype(object),
        attempt=table["attempt"].fillna(0).astype("int64"),
        attempts=table["attempts"].fillna(0).astype("int64"),
    )


def pair_up(
    experiment: Experiment,
    endpoint: Endpoint,
    treatment: str,
    baseline: str,
    table: pd.DataFrame | None = None,
) -> Pairs:
    """Joins two arms seed by seed, over every seed planned for either; `table`: the endpoint's outcomes."""
    table = outcomes(experiment, endpoint) if table is None else table
    left = table[table["arm"] == treatment].drop(columns="arm").add_prefix("treatment_")
    right = table[table["arm"] == baseline].drop(columns="arm").add_prefix("baseline_")
    rows = left.merge(right, left_on="treatment_seed", right_on="baseline_seed", how="outer")
    seed = rows["treatment_seed"].fillna(rows["baseline_seed"]).astype("int64")
    for side in ("treatment", "baseline"):
        status = rows[f"{side}_status"]
        rows[f"{side}_status"] = status.where(status.notna(), "not_run").astype(object)
    rows = rows.assign(
        seed=seed,
        kind=[_kind(row) for row in rows.to_dict("records")],
        delta=_differences(rows["treatment_value"].to_numpy(float), rows["baseline_value"].to_numpy(float)),
    )
    rows = rows.sort_values("seed", ignore_index=True)
    return Pairs(treatment=treatment, baseline=baseline, endpoint=endpoint, rows=rows)


def _kind(row: dict[Any, Any]) -> Kind:
    statuses = (row["treatment_status"], row["baseline_status"])
    if any(status in ADMINISTRATIVE for status in statuses):
        return "lost"
    if any(status in FAILURES for status in statuses):
        return "failed"
    if any(np.isnan(row[f"{side}_value"]) for side in ("treatment", "baseline")):
        return "no endpoint"
    return "paired"


def _differences(
    treatment: np.ndarray[Any, np.dtype[np.float64]], baseline: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Treatment minus baseline; two runs that both never reached a threshold differ by 0."""
    with np.errstate(all="ignore"):
        return np.where(np.isinf(treatment) & (treatment == baseline), 0.0, treatment - baseline)


def _seed_row(row: dict[Any, Any]) -> SeedRow:
    return SeedRow(
        seed=int(row["seed"]),
        kind=row["kind"],
        baseline_status=str(row["baseline_status"]),
        treatment_status=str(row["treatment_status"]),
        baseline=None if math.isnan(row["baseline_value"]) else float(row["baseline_value"]),
        treatment=None if math.isnan(row["treatment_value"]) else float(row["treatment_value"]),
        delta=float(row["delta"]) if row["kind"] == "paired" else None,
        baseline_attempts=_count(row["baseline_attempts"]),
        treatment_attempts=_count(row["treatment_attempts"]),
    )


def _count(value: float) -> int:
    return 0 if math.isnan(value) else int(value)
