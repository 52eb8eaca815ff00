"""How steadily each run trained: numbers of one run, read off its own log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis.ragged import Floats, Ragged, deviations, quantiles, while_finite
from analysis.spikes import CALM, spikes_of

LOSSES = ("ce", "loss")
"""Training losses, the first of them that was logged: the CE means the same in every arm."""
UNITS = {"ce": "nats/token"}
"""Of kvtune's own; a whole loss is a weighted sum and has the unit that it was logged in."""
WARM_UP = 0.1
"""Share of a run's steps that the spread of its gradient norm leaves out."""
FEWEST = 8
"""Second differences, or gradient norms, from which a spread is read."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run; lower is steadier."""

    name: str
    label: str
    unit: str
    scale: Literal["raw", "log"]
    """log: arms are compared by their ratio."""
    definition: str


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            name="spikes", label="loss spikes", unit="episodes per 1,000 steps", scale="raw",
            definition=(
                "a spike lies above the median of the last 3 calm points by more than 6 sigma and 5 % of the "
                "level, sigma from the first differences of the last 16 calm points; consecutive spikes are "
                "one episode"
            ),
        ),
        Measure(
            name="roughness", label="roughness of the loss", unit="the loss's unit", scale="log",
            definition=(
                "noise of one logged point: 1.4826 MAD of the loss's second differences over the root of 6, "
                "so a trend has no part in it"
            ),
        ),
        Measure(
            name="gradient_sd", label="spread of the gradient norm", unit="SD of its logarithm", scale="log",
            definition="SD of the logarithm of the norm over logged steps, the first tenth of a run left out",
        ),
        Measure(
            name="gradient_ratio", label="gradient p99/p50", unit="ratio", scale="log",
            definition="the norm's 99th percentile over its median, the first tenth of a run left out",
        ),
        Measure(
            name="clip_rate", label="clipped steps", unit="fraction of logged steps", scale="raw",
            definition="logged steps whose gradient norm lay above max_grad_norm and was scaled down to it",
        ),
    )
}  # fmt: skip

NEEDS = {
    "spikes": f"more than {CALM} logged training losses",
    "roughness": f"{FEWEST + 2} training losses logged at even steps",
    "gradient_sd": f"{FEWEST} logged gradient norms after the first tenth of the run",
    "gradient_ratio": f"{FEWEST} logged gradient norms after the first tenth of the run",
    "clip_rate": "logged gradient norms and the run's max_grad_norm",
}
"""What a run must have logged."""


def loss_of(metrics: pd.DataFrame) -> str:
    """The training loss that spikes and roughness are read from; `loss` where none was logged."""
    logged = set(metrics.loc[metrics["split"] == "train", "metric"].unique())
    return next((name for name in LOSSES if name in logged), LOSSES[-1])


def measures_of(loss: str, quantities: Mapping[str, Mapping[str, str]]) -> tuple[Measure, ...]:
    """The measures where this loss was logged; quantities: the plan's, for units of imported runs."""
    unit = quantities.get(loss, {}).get("unit") or UNITS.get(loss, "as logged")
    known = {**MEASURES, "roughness": replace(MEASURES["roughness"], unit=unit)}
    return tuple(known.values())


def run_measures(losses: pd.DataFrame, gradients: pd.DataFrame, limits: pd.DataFrame) -> pd.DataFrame:
    """trial_id, attempt, and a column per measure: NaN where a run logged too little for it.

    losses, gradients: curves of the training loss and of grad_norm.
    limits: trial_id, attempt, max_grad_norm (NaN where it is not recorded).
    """
    runs = Ragged.of(losses)
    curves, steps = while_finite(runs.matrix("value")), runs.matrix("step")
    ours = runs.keys.assign(spikes=spikes_of(curves, steps).per_1000, roughness=roughness(curves, steps))
    return ours.merge(
        _gradient_measures(Ragged.of(gradients), limits), on=["trial_id", "attempt"], how="outer"
    )


def roughness(values: Floats, steps: Floats) -> Floats:
    """Noise of one point from second differences over equal steps; a straight line has none."""
    if values.shape[1] < 3:
        return np.full(len(values), np.nan)
    even = np.abs(np.diff(steps, n=2, axis=1)) == 0
    bends = np.where(even, np.diff(values, n=2, axis=1), np.nan)
    enough = np.count_nonzero(np.isfinite(bends), axis=1) >= FEWEST
    return np.where(enough, deviations(bends) / np.sqrt(6), np.nan)


def _gradient_measures(runs: Ragged, limits: pd.DataFrame) -> pd.DataFrame:
    keys = runs.keys
    norms, steps = runs.matrix("value"), runs.matrix("step")
    norms = np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)
    limit = keys.merge(limits, on=["trial_id", "attempt"], how="left")["max_grad_norm"].to_numpy(np.float64)
    if not norms.size:
        empty = np.full(len(keys), np.nan)
        return keys.assign(gradient_sd=empty, gradient_ratio=empty, clip_rate=empty)
    warm = np.where(steps > WARM_UP * np.nanmax(steps, axis=1, keepdims=True), norms, np.nan)
    counts = np.count_nonzero(np.isfinite(warm), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = quantiles(warm, 0.99) / quantiles(warm, 0.5)
        clipped = np.nansum(norms > limit[:, None], axis=1) / np.count_nonzero(np.isfinite(norms), axis=1)
    return keys.assign(
        gradient_sd=np.where(counts >= FEWEST, pd.DataFrame(np.log(warm)).std(axis=1), np.nan),
        gradient_ratio=np.where(counts >= FEWEST, ratio, np.nan),
        clip_rate=np.where(np.isnan(limit), np.nan, clipped),
    )
