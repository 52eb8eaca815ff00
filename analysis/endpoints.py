"""What is compared: one number per run, read off its curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.names import QUANTITIES, REACHED, Quantity, Reading, reading_of
from analysis.plan import At, Direction, Plan
from analysis.ragged import Floats, Ragged


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How a run's curve becomes one number."""

    metric: str
    """The name it goes by (see names.reading_of): eval_ce, eval_ce@auc, steps_to_90."""
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
    """steps_to_N, tokens_to_N: the accuracy to reach, as a fraction."""
    along: Literal["step", "tokens"] = "step"
    """What it takes to reach the threshold is counted in these."""
    precision: float = float(np.finfo(np.float64).eps)
    """What rounding its values carry, relative to their size."""

    @property
    def label(self) -> str:
        """For sentences: "final eval CE"."""
        if self.threshold is not None:
            return self.quantity
        if self.at == "final":
            return f"final {self.quantity}"
        if self.at == "last":
            return f"{self.quantity} at each run's own end"
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
    known = {**QUANTITIES, **{name: _told_by_plan(name, plan, None) for name in plan.quantities}}
    known.setdefault(primary.metric, _told_by_plan(primary.metric, plan, primary.direction))
    return _endpoint(metric, reading_of(metric, known), "eval", plan, None)


def _named(metric: str, split: str, plan: Plan, direction: Direction | None) -> Endpoint:
    reading = reading_of(metric) if REACHED.fullmatch(metric) else Reading(metric)
    return _endpoint(metric, reading, split, plan, direction)


def _endpoint(metric: str, reading: Reading, split: str, plan: Plan, direction: Direction | None) -> Endpoint:
    k = reading.k or plan.primary.k
    if reading.threshold is not None:
        what, unit = ("steps", "optimizer steps") if reading.along == "step" else ("tokens", "tokens")
        return Endpoint(
            metric=metric, source=reading.source, split=split, at="final", k=k, direction="min",
            quantity=f"{what} to {100 * reading.threshold:.0f} % accuracy", unit=unit,
            threshold=reading.threshold, along=reading.along,
        )  # fmt: skip
    known = QUANTITIES.get(reading.source) or _told_by_plan(reading.source, plan, direction)
    return Endpoint(
        metric=metric, source=reading.source, split=split, at=reading.at or plan.primary.at, k=k,
        direction=direction or known.direction, quantity=known.label, unit=known.unit,
        precision=plan.precision.get(reading.source, float(np.finfo(np.float64).eps)),
    )  # fmt: skip


def _told_by_plan(metric: str, plan: Plan, direction: Direction | None) -> Quantity:
    """A metric of imported runs, as their mapping describes it."""
    told = plan.quantities.get(metric, {})
    better: Direction = "max" if told.get("direction", direction) == "max" else "min"
    return Quantity(metric.replace("_", " "), told.get("unit", "as logged"), better)


def extract(rows: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    """One row per (trial_id, attempt) that has evaluations, from the curves of the endpoint's source.

    Columns: value (NaN or inf as it came; +inf for steps_to_N never reached), points (evaluations),
    last_step, gap (why there is no value; empty where there is one).
    """
    runs = Ragged.of(rows)
    if not len(runs.starts):
        return pd.DataFrame(columns=["trial_id", "attempt", "value", "points", "last_step", "gap"])
    value, gap = _reduce(runs, endpoint)
    last = runs.rows["step"].to_numpy()[runs.starts + runs.counts - 1]
    return runs.keys.assign(value=value, points=runs.counts, last_step=last, gap=gap)


def _reduce(runs: Ragged, endpoint: Endpoint) -> tuple[Floats, list[str]]:
    """Every run's number, and why it has none."""
    if endpoint.threshold is not None:
        return _reached(runs, endpoint.threshold, endpoint.along)
    if endpoint.at in ("final", "last"):
        return runs.column("value")[runs.starts + runs.counts - 1], [""] * len(runs.starts)
    if endpoint.at == "auc":
        too_few = "one evaluation, and an area needs two"
        return _mean_over_steps(runs), [too_few if count < 2 else "" for count in runs.counts]
    few = f"evaluations where the mean of the last {endpoint.k} is asked"
    gaps = [f"{count} {few}" if count < endpoint.k else "" for count in runs.counts]
    return _mean_of_last(runs, endpoint.k), gaps


def _reached(runs: Ragged, threshold: float, along: str) -> tuple[Floats, list[str]]:
    """The first place with that value; infinite where there is none."""
    places = runs.column(along)
    reached = runs.column("value") >= threshold - 1e-12
    unknown = np.isnan(places) & reached
    firsts = np.minimum.reduceat(np.where(reached & ~unknown, places, np.inf), runs.starts)
    blind = np.logical_or.reduceat(unknown, runs.starts)
    return np.where(blind, np.nan, firsts), [f"{along} were not logged" if none else "" for none in blind]


def _mean_of_last(runs: Ragged, k: int) -> Floats:
    ends = runs.starts + runs.counts
    places = np.maximum(ends[:, None] - np.arange(k, 0, -1), 0)
    with np.errstate(all="ignore"):
        means = runs.column("value")[places].mean(axis=1)
    return np.where(runs.counts >= k, means, np.nan)


def _mean_over_steps(runs: Ragged) -> Floats:
    """The area under the curve by trapezoids, over the steps that it spans."""
    steps, values = runs.column("step"), runs.column("value")
    with np.errstate(all="ignore"):
        pieces = np.r_[0.0, np.diff(steps) * (values[1:] + values[:-1]) / 2]
        pieces[runs.starts] = 0.0
        areas = np.add.reduceat(pieces, runs.starts)
        spans = steps[runs.starts + runs.counts - 1] - steps[runs.starts]
        return np.asarray(areas / spans, dtype=np.float64)
