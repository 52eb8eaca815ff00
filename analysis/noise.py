"""What noise within a run stands against the spread between seeds: whether evaluations or seeds are short."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.endpoints import Endpoint, endpoint_of
from analysis.ragged import Floats, Ragged, deviations, while_finite
from analysis.records import Experiment
from analysis.spread import sd_of

FEWEST = 8
"""Second differences of an arm's evaluations from which their noise is read."""


@dataclass(frozen=True, kw_only=True)
class NoiseShare:
    """One arm's primary endpoint: for orientation, nothing is tested. None where too little was logged."""

    arm: str
    seeds: int
    """Completed runs with the endpoint."""
    within: float | None
    """SD of the noise of one evaluation, from second differences over the second half of every run."""
    evaluations: int
    """Evaluations that the endpoint averages."""
    across: float | None
    """SD over seeds."""
    share: float | None
    """Of the variance over seeds, what noise within runs explains: within^2 / evaluations / across^2."""
    item_se: float | None
    """Accuracy alone: standard error that the held-out items give one run, root mean square over runs."""

    def to_dict(self) -> dict[str, Any]:
        reasons = {
            "within": f"fewer than {FEWEST} second differences of evaluations",
            "across": "fewer than two completed runs, or an unbounded value",
            "share": "one of its two parts is not known",
            "item_se": "the endpoint is no accuracy, or no items were kept",
        }
        return {
            **vars(self),
            "why_null": {name: reason for name, reason in reasons.items() if vars(self)[name] is None},
        }


def noise_shares(experiment: Experiment, cells: pd.DataFrame) -> tuple[NoiseShare, ...]:
    """Every arm in the order of `cells`, the primary endpoint's outcomes."""
    endpoint = endpoint_of(experiment.plan)
    runs = Ragged.of(experiment.curves(endpoint.source, endpoint.split))
    keys = runs.keys.merge(cells[["trial_id", "attempt", "arm"]], on=["trial_id", "attempt"], how="left")
    bends = _bends(runs)
    errors = _item_errors(experiment, endpoint)
    return tuple(
        _share(
            str(arm), rows, bends[(keys["arm"] == arm).to_numpy()], endpoint,
            np.asarray(rows["trial_id"].map(errors), dtype=np.float64),
        )
        for arm, rows in cells.groupby("arm", sort=False)
    )  # fmt: skip


def _bends(runs: Ragged) -> Floats:
    """Second differences over equal steps in the second half of every run; NaN elsewhere."""
    values, steps = while_finite(runs.matrix("value")), runs.matrix("step")
    if values.shape[1] < 3:
        return np.full((len(values), 0), np.nan)
    late = steps[:, :-2] >= np.nanmax(steps, axis=1, keepdims=True) / 2
    even = np.diff(steps, n=2, axis=1) == 0
    return np.where(late & even, np.diff(values, n=2, axis=1), np.nan)


def _share(arm: str, rows: pd.DataFrame, bends: Floats, endpoint: Endpoint, errors: Floats) -> NoiseShare:
    values = rows["value"].dropna().to_numpy(np.float64)
    known = bends[np.isfinite(bends)]
    within = float(deviations(known[None])[0]) / math.sqrt(6) if len(known) >= FEWEST else None
    bounded = len(values) > 1 and bool(np.isfinite(values).all())
    across = sd_of(values) if bounded else None
    count = endpoint.k if endpoint.at == "last_k_mean" else _points(rows) if endpoint.at == "auc" else 1
    share = None
    if within is not None and across and count:
        share = (within / across) ** 2 / count
    known_errors = errors[np.isfinite(errors)]
    return NoiseShare(
        arm=arm,
        seeds=len(values),
        within=within,
        evaluations=count,
        across=across,
        share=share,
        item_se=float(np.sqrt(np.mean(known_errors**2))) if len(known_errors) else None,
    )


def _points(rows: pd.DataFrame) -> int:
    points = rows["points"].dropna()
    return int(points.median()) if len(points) else 0


def _item_errors(experiment: Experiment, endpoint: Endpoint) -> dict[str, float]:
    """Trial -> binomial standard error of its accuracy over the held-out items."""
    if endpoint.source != "eval_accuracy" or endpoint.threshold is not None or experiment.items is None:
        return {}
    share = experiment.items.assign(correct=experiment.items["correct"].astype("float64"))
    by_trial = share.groupby("trial_id", observed=True)["correct"].agg(["mean", "count"])
    errors = (by_trial["mean"] * (1 - by_trial["mean"]) / by_trial["count"]) ** 0.5
    return dict(zip(errors.index.astype(str), errors.to_numpy(np.float64).tolist(), strict=True))
