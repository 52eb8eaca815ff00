"""The difference of two arms along training, seed by seed: the honest curve of an A/B experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import Comparison
from analysis.curves import n_text, t_band
from analysis.endpoints import Endpoint, endpoint_of
from analysis.maxt import max_t, units_of
from analysis.paired_tests import ROUNDING
from analysis.power import least_pairs
from analysis.ragged import Floats, of_runs
from analysis.records import FAILURES, Experiment


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive evaluated steps at which the band leaves 0 out."""

    first: int
    last: int
    steps: int
    """Evaluated steps in it."""
    lead: Literal["better", "worse"]
    """The treatment's."""


@dataclass(frozen=True, kw_only=True)
class DifferenceCurve:
    """treatment - baseline of one metric at every step that both runs of a seed logged."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    """Whose curve it is: metric, split, unit, direction."""
    alpha: float
    level: float
    """alpha over the planned contrasts: the band holds at all tested steps of all of them at once."""
    table: pd.DataFrame
    """step, n (pairs), mean, low, high (pointwise t at alpha), band_low, band_high, p (over the whole curve).
    Band and p are NaN where nothing is tested."""
    stretches: tuple[Stretch, ...]
    """Where the band leaves 0 out; empty where nothing may be claimed."""
    why: str
    """Why nothing was tested, or why only a part was; empty where the whole curve was."""

    @property
    def tested(self) -> int:
        """Steps in the band."""
        return int(self.table["p"].notna().sum())

    @property
    def p(self) -> float | None:
        """Of any difference anywhere on the tested curve."""
        return float(self.table["p"].min()) if self.tested else None

    @property
    def counts(self) -> str:
        """ "n = 8 pairs, 7 from step 600"."""
        return n_text(self.table, "pairs")

    @property
    def sentence(self) -> str:
        """What the band says of the whole curve."""
        names = f"{self.treatment} against {self.baseline} along training"
        tail = f" ({self.why}.)" if self.why and self.tested else ""
        if not self.tested:
            return f"{names}: not tested, {self.why}."
        if not self.stretches:
            return f"{names}: at no step does the band leave 0 out.{tail}"
        spans = "; ".join(
            f"{stretch.lead} at step {stretch.first}"
            if stretch.steps == 1
            else f"{stretch.lead} from step {stretch.first} to {stretch.last}"
            for stretch in self.stretches
        )
        return (
            f"{names}: {spans} (at {100 * (1 - self.level):.4g} % over all {self.tested} tested steps).{tail}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "treatment": self.treatment,
            "baseline": self.baseline,
            "metric": self.endpoint.source,
            "split": self.endpoint.split,
            "alpha": self.alpha,
            "level": self.level,
            "steps": len(self.table),
            "tested": self.tested,
            "p": self.p,
            "stretches": [vars(stretch) for stretch in self.stretches],
            "sentence": self.sentence,
            "why": self.why,
            "why_null": {} if self.tested else {"p": self.why},
        }


def difference_curves(
    experiment: Experiment, cells: pd.DataFrame, comparisons: Sequence[Comparison]
) -> tuple[DifferenceCurve, ...]:
    """The primary endpoint's curve of every planned contrast; steps as logged, nothing interpolated."""
    endpoint = endpoint_of(experiment.plan)
    grid = _Grid.of(experiment.curves(endpoint.source, endpoint.split), cells)
    return tuple(
        _difference_curve(grid, endpoint, comparison, len(comparisons)) for comparison in comparisons
    )


@dataclass(frozen=True)
class _Grid:
    """One metric of all runs on the union of their steps."""

    steps: NDArray[Any]
    """Whole numbers; floats where an import counts in fractions of an epoch."""
    lines: dict[tuple[str, int], int]
    """(arm, seed) -> line of `values`."""
    values: Floats
    """[runs, steps]: NaN where a run logged nothing, and from its first value on that is not finite."""

    @classmethod
    def of(cls, rows: pd.DataFrame, cells: pd.DataFrame) -> _Grid:
        lines = cells[["trial_id", "attempt"]].assign(line=np.arange(len(cells)))
        rows = of_runs(rows, lines)
        steps, places = np.unique(rows["step"].to_numpy(), return_inverse=True)
        logged = np.zeros((len(cells), len(steps)))
        ended = np.zeros((len(cells), len(steps)), dtype=bool)
        found = rows["value"].to_numpy(np.float64)
        line = rows["line"].to_numpy(np.int64)
        logged[:] = np.nan
        logged[line, places] = found
        ended[line, places] = ~np.isfinite(found)
        values = np.where(np.logical_or.accumulate(ended, axis=1), np.nan, logged)
        keys = zip(cells["arm"].astype(str), cells["seed"].astype(int), strict=True)
        return cls(steps, {key: place for place, key in enumerate(keys)}, values)

    def of_arm(self, arm: str, seeds: Sequence[int]) -> Floats:
        """[seeds, steps]; a seed without a run has no values."""
        padded = np.vstack([self.values, np.full((1, len(self.steps)), np.nan)])
        return padded[[self.lines.get((arm, seed), -1) for seed in seeds]]


def _difference_curve(
    grid: _Grid, endpoint: Endpoint, comparison: Comparison, contrasts: int
) -> DifferenceCurve:
    seeds = [row.seed for row in comparison.rows]
    deltas = _differences(grid.of_arm(comparison.treatment, seeds), grid.of_arm(comparison.baseline, seeds))
    level = comparison.alpha / contrasts
    present = ~np.isnan(deltas)
    table = _pointwise(grid.steps, deltas, comparison.alpha)
    testable, why = _testable(grid.steps, present, comparison, level)
    found = max_t(deltas[:, testable], level)
    error = table["sd"].to_numpy(np.float64)[testable] / np.sqrt(table["n"].to_numpy(np.float64)[testable])
    for name, numbers in (("t", found.t), ("p", found.p), ("reach", found.width * error)):
        table[name] = _spread_out(numbers, testable)
    table = table.assign(band_low=table["mean"] - table["reach"], band_high=table["mean"] + table["reach"])
    shown = table.loc[table["n"] > 0, ["step", "n", "mean", "low", "high", "band_low", "band_high", "p"]]
    return DifferenceCurve(
        treatment=comparison.treatment,
        baseline=comparison.baseline,
        endpoint=endpoint,
        alpha=comparison.alpha,
        level=level,
        table=shown.reset_index(drop=True),
        stretches=_stretches(table, endpoint.direction == "min"),
        why=why,
    )


def _differences(ours: Floats, theirs: Floats) -> Floats:
    """NaN where either is missing; what may be rounding is 0."""
    with np.errstate(over="ignore"):
        deltas = ours - theirs
    rounding = ROUNDING * np.fmax(np.abs(ours), np.abs(theirs))
    return np.where(np.isfinite(deltas), np.where(np.abs(deltas) <= rounding, 0.0, deltas), np.nan)


def _pointwise(steps: NDArray[Any], deltas: Floats, alpha: float) -> pd.DataFrame:
    unit = units_of(deltas)
    table = pd.DataFrame((deltas / unit).T, index=steps)
    n = table.count(axis=1).to_numpy(np.int64)
    mean, sd = (numbers.to_numpy(np.float64) * unit for numbers in (table.mean(axis=1), table.std(axis=1)))
    low, high = t_band(mean, sd, n, alpha)
    return pd.DataFrame({"step": steps, "n": n, "mean": mean, "sd": sd, "low": low, "high": high})


def _testable(
    steps: NDArray[Any], present: NDArray[np.bool_], comparison: Comparison, level: float
) -> tuple[NDArray[np.bool_], str]:
    """Steps that the band may hold at, and why it holds at no others."""
    none = np.zeros(len(steps), dtype=bool)
    if silent := _silent(comparison):
        return none, silent
    least = least_pairs(level)
    enough = present.sum(axis=0) >= least
    if not enough.any():
        return none, f"no step has the {least} pairs that a claim takes"
    failed = [
        place for place, row in enumerate(comparison.rows)
        if row.baseline_status in FAILURES or row.treatment_status in FAILURES
    ]  # fmt: skip
    left = np.logical_and.reduce(present[failed], axis=0) if failed else ~none
    whole = np.logical_and.accumulate(left)
    if not (enough & whole).any():
        return none, "a failed run leaves before there is anything to test: what remains are survivors"
    if not whole[enough].all():
        return (
            enough & whole,
            f"from step {steps[~whole][0]} on a failed run is missing: nothing is tested there",
        )
    return enough, "" if enough.all() else f"steps with fewer than {least} pairs are not tested"


def _silent(comparison: Comparison) -> str:
    """Why this contrast may claim nothing at all."""
    if comparison.verdict == "INVALID":
        return "a validity gate failed"
    if comparison.mode == "aa":
        return "an A/A claims nothing"
    if not comparison.look.allowed:
        if comparison.imported:
            return "pairs that were found are not complete"
        return "the plan does not name a look at so few pairs"
    extended = comparison.extension is not None and comparison.extension.costs
    return "seeds were added after a look" if extended else ""


def _spread_out(numbers: Floats, testable: NDArray[np.bool_]) -> Floats:
    full = np.full(len(testable), math.nan)
    full[testable] = numbers
    return full


def _stretches(table: pd.DataFrame, lower_is_better: bool) -> tuple[Stretch, ...]:
    below, above = table["band_high"].to_numpy(np.float64) < 0, table["band_low"].to_numpy(np.float64) > 0
    sign = above.astype(np.int64) - below.astype(np.int64)
    steps = table["step"].to_numpy()
    cuts = np.flatnonzero(np.diff(sign)) + 1
    return tuple(
        Stretch(
            first=steps[part[0]].item(),
            last=steps[part[-1]].item(),
            steps=len(part),
            lead="better" if (sign[part[0]] < 0) == lower_is_better else "worse",
        )
        for part in np.split(np.arange(len(sign)), cuts)
        if len(part) and sign[part[0]]
    )
