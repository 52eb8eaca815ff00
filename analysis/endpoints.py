"""What is compared: one number per run, read off its curve."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from analysis.plan import At, Direction, Plan, ResultsError, unknown


class Quantity(NamedTuple):
    label: str
    unit: str
    direction: Direction


QUANTITIES: dict[str, Quantity] = {
    "eval_ce": Quantity("eval CE", "nats/token", "min"),
    "eval_accuracy": Quantity("eval accuracy", "fraction exact", "max"),
    "kv_cka": Quantity("KV CKA", "0 to 1", "max"),
    "kv_cka_keys": Quantity("key CKA", "0 to 1", "max"),
    "kv_cka_values": Quantity("value CKA", "0 to 1", "max"),
    "probe_r2": Quantity("probe R²", "0 to 1", "max"),
}
"""Held-out metrics that mean the same in every arm. What is missing here is never compared."""

STEPS_TO = re.compile(r"steps_to_([1-9]\d?|100)")
"""steps_to_90: first evaluated step with 90 % accuracy; never reached is +inf, worse than any step."""

OWN_TARGET = ("kv_loss", "loss")
"""Each arm's KV target is its own projection, so these mean something else in every arm."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How a run's curve becomes one number."""

    metric: str
    """The name it goes by: a logged metric, or steps_to_N."""
    source: str
    """The logged metric it is read from."""
    split: str
    at: At
    k: int
    direction: Direction
    quantity: str
    """For people: "eval CE"."""
    unit: str
    threshold: float | None = None
    """steps_to_N: the accuracy to reach, as a fraction."""

    @property
    def label(self) -> str:
        """For sentences: "final eval CE"."""
        if self.threshold is not None:
            return self.quantity
        if self.at == "final":
            return f"final {self.quantity}"
        if self.at == "last_k_mean":
            return f"{self.quantity} (mean of the last {self.k} evaluations)"
        return f"{self.quantity} (mean over training, from the area under the curve)"

    @property
    def better(self) -> str:
        return "lower is better" if self.direction == "min" else "higher is better"

    @property
    def axis(self) -> str:
        """For axes: quantity, unit, direction."""
        return f"{self.quantity} ({self.unit}), {self.better}"

    @property
    def harm_sign(self) -> int:
        """Times a difference, above 0 is worse."""
        return 1 if self.direction == "min" else -1


def endpoint_of(plan: Plan, metric: str | None = None) -> Endpoint:
    """The plan's primary endpoint, or another held-out metric read off the curve in the same way."""
    primary = plan.primary
    if metric is None or metric == primary.metric:
        return _named(primary.metric, primary.split, plan, primary.direction)
    if metric in OWN_TARGET:
        raise ResultsError(
            f"{metric} is not compared across arms: each arm's KV target is its own projection. "
            f"Compare {', '.join(QUANTITIES)} or steps_to_90."
        )
    known = {**QUANTITIES, **plan.quantities}
    if metric not in known and not STEPS_TO.fullmatch(metric):
        raise unknown("metric", metric, [*known, "steps_to_90", primary.metric])
    return _named(metric, "eval", plan, None)


def _named(metric: str, split: str, plan: Plan, direction: Direction | None) -> Endpoint:
    at, k = plan.primary.at, plan.primary.k
    if steps_to := STEPS_TO.fullmatch(metric):
        percent = int(steps_to.group(1))
        return Endpoint(
            metric=metric, source="eval_accuracy", split=split, at="final", k=k, direction="min",
            quantity=f"steps to {percent} % accuracy", unit="optimizer steps", threshold=percent / 100,
        )  # fmt: skip
    known = QUANTITIES.get(metric) or _told_by_plan(metric, plan, direction)
    return Endpoint(
        metric=metric, source=metric, split=split, at=at, k=k, direction=direction or known.direction,
        quantity=known.label, unit=known.unit,
    )  # fmt: skip


def _told_by_plan(metric: str, plan: Plan, direction: Direction | None) -> Quantity:
    """A metric of imported runs, as their mapping describes it."""
    told = plan.quantities.get(metric, {})
    better: Direction = "max" if told.get("direction", direction) == "max" else "min"
    return Quantity(metric.replace("_", " "), told.get("unit", "as logged"), better)


def curves_of(metrics: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """One metric's rows, sorted by trial and step and unique by both; trial_id is a category."""
    mask = (metrics["metric"] == metric) & (metrics["split"] == split)
    rows = metrics.loc[mask, ["trial_id", "attempt", "step", "wall_s", "value"]]
    rows = rows.assign(trial_id=rows["trial_id"].astype("category"))
    keys = (rows["step"].to_numpy(), rows["attempt"].to_numpy(), rows["trial_id"].cat.codes.to_numpy())
    rows = rows.iloc[np.lexsort(keys)].reset_index(drop=True)
    repeated = rows.duplicated(["trial_id", "attempt", "step"])
    if not repeated.any():
        return rows
    rows = rows.drop_duplicates(ignore_index=True)
    twice = rows[rows.duplicated(["trial_id", "attempt", "step"])]
    if len(twice):
        row = twice.iloc[0]
        raise ResultsError(
            f"metrics.parquet has two values of {metric} for {row['trial_id']} at step {row['step']}: "
            "collect the trials again."
        )
    return rows


def extract(metrics: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    """One row per (trial_id, attempt) that has evaluations.

    Columns: value (NaN or inf as it came; +inf for steps_to_N never reached), points (evaluations),
    last_step, gap (why there is no value; empty where there is one).
    """
    rows = curves_of(metrics, endpoint.source, endpoint.split)
    found = [
        (*key, *_reduce(curve["step"].to_numpy(float), curve["value"].to_numpy(float), endpoint))
        for key, curve in rows.groupby(["trial_id", "attempt"], sort=True, observed=True)
    ]
    return pd.DataFrame(found, columns=["trial_id", "attempt", "value", "points", "last_step", "gap"])


def _reduce(
    steps: NDArray[np.float64], values: NDArray[np.float64], endpoint: Endpoint
) -> tuple[float, int, int, str]:
    points, last = len(steps), int(steps[-1])
    if endpoint.threshold is not None:
        reached = steps[values >= endpoint.threshold - 1e-12]
        return (float(reached[0]) if len(reached) else np.inf), points, last, ""
    if endpoint.at == "final":
        return float(values[-1]), points, last, ""
    if endpoint.at == "last_k_mean":
        if points < endpoint.k:
            return (
                np.nan,
                points,
                last,
                f"{points} evaluations where the mean of the last {endpoint.k} is asked",
            )
        with np.errstate(all="ignore"):
            return float(np.mean(values[-endpoint.k :])), points, last, ""
    if points < 2:
        return np.nan, points, last, "one evaluation, and an area needs two"
    with np.errstate(all="ignore"):
        area = float(trapezoid(values, steps)) / float(steps[-1] - steps[0])
    return area, points, last, ""
