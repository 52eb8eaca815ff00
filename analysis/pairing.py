"""The paired table, built from the plan outwards, and the gates that a pair must pass before any test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.endpoints import Endpoint, extract
from analysis.plan import Plan
from analysis.records import ADMINISTRATIVE, FAILURES, Experiment

Kind = Literal["paired", "failed", "lost", "no endpoint"]
GateStatus = Literal["passed", "failed", "not checked"]

RECORDED = {
    "planned_steps": "as many planned steps",
    "tokens_seen": "as many tokens seen",
    "data_order_hash": "the same batches in the same order",
    "init_hash": "the same first weights",
    "eval_set_hash": "the same held-out rows",
}
"""Column -> what its equality within a pair means."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One validity check of a contrast. A failed gate makes the verdict INVALID."""

    name: str
    status: GateStatus
    detail: str


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One contrast on one endpoint: one row per planned seed."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    rows: pd.DataFrame
    """seed, kind, delta (treatment - baseline, of paired rows), and per side (`treatment_`, `baseline_`):
    status, value, gap, points, last_step, planned_steps, hashes, tokens_seen, trial_id."""
    gates: tuple[Gate, ...]


def outcomes(experiment: Experiment, endpoint: Endpoint) -> pd.DataFrame:
    """One row per planned cell, whatever became of it: its last attempt and its endpoint.

    status: as recorded, except that `completed` with a non-finite endpoint is `diverged`. value: NaN unless
    the trial completed; +inf where steps_to_N was never reached. gap: why a completed trial has no value.
    attempts: attempts started.
    """
    table = _with_last_attempt(experiment)
    found = extract(experiment.metrics, endpoint)
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


def pair_up(experiment: Experiment, endpoint: Endpoint, treatment: str, baseline: str) -> Pairs:
    """Joins two arms seed by seed, over every seed planned for either, and checks the gates."""
    table = outcomes(experiment, endpoint)
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
    gates = tuple(_gates(rows, experiment.plan, endpoint, treatment, baseline))
    return Pairs(treatment=treatment, baseline=baseline, endpoint=endpoint, rows=rows, gates=gates)


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


def _gates(
    rows: pd.DataFrame, plan: Plan, endpoint: Endpoint, treatment: str, baseline: str
) -> Iterator[Gate]:
    yield _declared_factors_only(rows, plan, treatment, baseline)
    yield _as_planned(rows)
    for column in RECORDED:
        yield _equal_within_pairs(rows, column)
    yield _endpoint_exists(rows, endpoint, treatment, baseline)
    yield _same_evaluations(rows)


def _declared_factors_only(rows: pd.DataFrame, plan: Plan, treatment: str, baseline: str) -> Gate:
    name = "configs differ in declared factors only"
    factors = {(cell.arm, cell.seed): cell.factors for cell in plan.cells}
    undeclared: dict[str, list[int]] = {}
    for seed in rows["seed"]:
        ours, theirs = factors.get((treatment, seed), {}), factors.get((baseline, seed), {})
        for field in sorted((ours.keys() & theirs.keys()) - set(plan.declared_factors)):
            if ours[field] != theirs[field]:
                undeclared.setdefault(field, []).append(seed)
    for column in [name for name in rows.columns if name.startswith("treatment_factor.")]:
        field = column.removeprefix("treatment_factor.")
        differing = _differing(rows, f"factor.{field}")
        if len(differing) and field not in plan.declared_factors:
            undeclared.setdefault(field, [int(seed) for seed in differing["seed"]])
    if undeclared:
        what = "; ".join(f"{field} (seeds {_listed(seeds)})" for field, seeds in sorted(undeclared.items()))
        return Gate(name=name, status="failed", detail=f"they also differ in {what}")
    declared = ", ".join(plan.declared_factors) or "none"
    if not any(factors.values()) and not any(name.startswith("treatment_factor.") for name in rows.columns):
        return Gate(name=name, status="not checked", detail="no config is recorded")
    return Gate(name=name, status="passed", detail=f"declared: {declared}")


def _as_planned(rows: pd.DataFrame) -> Gate:
    name = "every trial ran the planned config"
    other: list[str] = []
    for side in ("treatment", "baseline"):
        ran, planned = rows[f"{side}_config_hash"], rows[f"{side}_planned_config_hash"]
        other += [str(trial) for trial in rows.loc[ran.notna() & (ran != planned), f"{side}_trial_id"]]
    if other:
        return Gate(
            name=name, status="failed", detail=f"config_hash differs from the plan's: {_listed(other)}"
        )
    if all(rows[f"{side}_config_hash"].isna().all() for side in ("treatment", "baseline")):
        return Gate(name=name, status="not checked", detail="config_hash is not recorded")
    return Gate(name=name, status="passed", detail="config_hash as planned")


def _equal_within_pairs(rows: pd.DataFrame, column: str) -> Gate:
    name = f"{RECORDED[column]} within each pair"
    # A trial that stopped early has seen fewer tokens by right.
    rows = rows[rows["kind"] == "paired"] if column == "tokens_seen" else rows
    known = rows[rows[f"treatment_{column}"].notna() & rows[f"baseline_{column}"].notna()]
    differing = _differing(known, column)
    if len(differing):
        return Gate(name=name, status="failed", detail=_first_difference(differing, column, column))
    unknown = int((rows["kind"] == "paired").sum() - (known["kind"] == "paired").sum())
    if unknown or known.empty:
        detail = f"{column} is not recorded for {unknown} pairs" if unknown else f"no pair has {column}"
        return Gate(name=name, status="not checked", detail=detail)
    return Gate(name=name, status="passed", detail=f"{column}, {len(known)} pairs")


def _first_difference(differing: pd.DataFrame, column: str, what: str) -> str:
    row = differing.iloc[0]
    return (
        f"{what} differs for seeds {_listed(differing['seed'])} (seed {row['seed']}: "
        f"{_short(row[f'treatment_{column}'])} against {_short(row[f'baseline_{column}'])})"
    )


def _endpoint_exists(rows: pd.DataFrame, endpoint: Endpoint, treatment: str, baseline: str) -> Gate:
    name = "every completed run has the endpoint"
    without = []
    for arm, side in ((treatment, "treatment"), (baseline, "baseline")):
        gap = rows[f"{side}_gap"]
        lacking = rows[(rows[f"{side}_status"] == "completed") & gap.notna() & (gap != "")]
        if len(lacking):
            why = lacking[f"{side}_gap"].iloc[0]
            without.append(f"{arm}: {why} (seeds {_listed(lacking['seed'])})")
    if without:
        return Gate(name=name, status="failed", detail=f"{endpoint.label} is missing. {'; '.join(without)}")
    return Gate(name=name, status="passed", detail=endpoint.label)


def _same_evaluations(rows: pd.DataFrame) -> Gate:
    name = "the same evaluations within each pair"
    both = rows[rows["kind"] == "paired"]
    for column, what in (("points", "number of evaluations"), ("last_step", "step of the last evaluation")):
        differing = _differing(both, column)
        if len(differing):
            return Gate(name=name, status="failed", detail=_first_difference(differing, column, what))
    if both.empty:
        return Gate(name=name, status="not checked", detail="no pair to check")
    points = both["treatment_points"].astype("int64")
    seen = str(points.min()) if points.min() == points.max() else f"{points.min()} to {points.max()}"
    return Gate(name=name, status="passed", detail=f"{seen} evaluations a run")


def _differing(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows in which both sides are known and not the same."""
    ours, theirs = rows[f"treatment_{column}"], rows[f"baseline_{column}"]
    known = ours.notna() & theirs.notna()
    return rows[known & (ours.astype(object) != theirs.astype(object))]


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _short(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"
