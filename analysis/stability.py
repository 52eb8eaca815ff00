"""How steadily two arms train: failures, spikes, roughness, gradients and spread over seeds, each tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.comparison import Comparison
from analysis.endpoints import Endpoint, endpoint_of
from analysis.missingness import FailureTest
from analysis.noise import NoiseShare, noise_shares
from analysis.paired_tests import Interval
from analysis.pairing import SeedRow
from analysis.ragged import Floats
from analysis.records import Experiment
from analysis.significance import Question, judge_family
from analysis.spread import LEAST_PAIRS, Spread, distances, spread_of
from analysis.steadiness import NEEDS, Measure, loss_of, measures_of, run_measures

Finding = Literal[
    "STEADIER", "LESS STEADY", "INCONCLUSIVE", "DEGENERATE", "NOT TESTABLE", "NOT MEASURED", "INVALID"
]
"""Of the treatment, against the baseline. NOT MEASURED: no run logged what it takes."""
FINDINGS: dict[str, Finding] = {
    "SUPERIOR": "STEADIER",
    "INFERIOR": "LESS STEADY",
    "INCONCLUSIVE": "INCONCLUSIVE",
    "DEGENERATE": "DEGENERATE",
    "NOT TESTABLE": "NOT TESTABLE",
    "INVALID": "INVALID",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of one contrast, through the same paired tests as every endpoint."""

    measure: Measure
    treatment: str
    baseline: str
    finding: Finding
    why: str
    """Why there is no finding; empty where there is one, or the data leave it open."""
    seeds: tuple[tuple[int, float | None, float | None], ...]
    """Planned seed, baseline's value, treatment's: in the measure's unit; None where there is none."""
    pairs: int
    baseline_median: float | None
    """Over the complete pairs, as is the treatment's."""
    treatment_median: float | None
    change: float | None
    """Mean of treatment - baseline; on a log scale the geometric mean of treatment / baseline."""
    interval: Interval | None
    """Of the change, paired t at 1 - alpha; on a log scale around 1."""
    p_signflip: float | None
    p_t: float | None
    p_adjusted: float | None
    """The larger of both after Holm over the panel's measures and contrasts: what a finding goes by."""

    def to_dict(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("measure", "seeds", "why")}
        plain["interval"] = None if self.interval is None else list(self.interval)
        reason = self.why or ("" if self.change is not None else "there is no complete pair")
        missing = [name for name, value in plain.items() if value is None]
        return {
            **vars(self.measure),
            **plain,
            "why": self.why,
            "seeds": [
                {"seed": seed, "baseline": theirs, "treatment": ours} for seed, theirs, ours in self.seeds
            ],
            "why_null": {
                **dict.fromkeys(missing, reason or "the differences do not vary"),
                **dict.fromkeys(
                    ("seeds.baseline", "seeds.treatment"), "the run did not end so that it has a value"
                ),
            },
        }


@dataclass(frozen=True, kw_only=True)
class ContrastStability:
    """The stability panel of one contrast."""

    treatment: str
    baseline: str
    planned: int
    failures: dict[str, int]
    """Arm -> failed runs, of `planned`."""
    failure_test: FailureTest
    """Exact McNemar; its p stands by itself, apart from the measures' family."""
    first_nonfinite_step: dict[str, int | None]
    """Arm -> the earliest step with a NaN or an infinity; None where there was none."""
    measures: tuple[Measured, ...]
    """In the order of steadiness.MEASURES; the spread over seeds comes last."""
    spread: Spread
    """SDs of the primary endpoint; whether they differ is the last measure's finding."""

    def to_dict(self) -> dict[str, Any]:
        nulls = [name for name, value in vars(self.spread).items() if value is None]
        return {
            "treatment": self.treatment,
            "baseline": self.baseline,
            "planned": self.planned,
            "failures": self.failures,
            "failure_test": vars(self.failure_test),
            "first_nonfinite_step": self.first_nonfinite_step,
            "measures": [measured.to_dict() for measured in self.measures],
            "spread": {
                **vars(self.spread),
                "ratio_interval": None
                if self.spread.ratio_interval is None
                else list(self.spread.ratio_interval),
                "why_null": dict.fromkeys(nulls, "too few complete pairs, or an arm that does not vary"),
            },
            "why_null": {
                f"first_nonfinite_step.{arm}": "no run of it met one"
                for arm, step in self.first_nonfinite_step.items()
                if step is None
            },
        }


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How steadily the arms trained: every planned contrast, and what noise stands against what spread."""

    contrasts: tuple[ContrastStability, ...]
    noise: tuple[NoiseShare, ...]
    """Per arm in planned order."""
    runs: pd.DataFrame
    """One row per planned cell: arm, seed, trial_id, status, first_nonfinite_step, and every measure."""
    loss: str
    """The training loss that spikes and roughness are read from."""
    family: int
    """Questions that share alpha by Holm."""
    floor: float
    """The smallest adjusted p that the exact test can give."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON, with a reason for every null."""
        return {
            "loss": self.loss,
            "family": self.family,
            "floor": self.floor,
            "contrasts": [contrast.to_dict() for contrast in self.contrasts],
            "noise": [share.to_dict() for share in self.noise],
        }


def stability_of(experiment: Experiment, cells: pd.DataFrame, comparisons: Sequence[Comparison]) -> Stability:
    """The panel. cells: outcomes of the primary endpoint; comparisons: its planned contrasts.

    Their gates hold here, too: what is INVALID there finds nothing here.
    """
    runs, loss = _runs(experiment, cells), loss_of(experiment.metrics)
    measures = measures_of(loss, experiment.plan.quantities)
    named = [measure for measure in measures if runs[measure.name].notna().any()]
    spread = spread_measure(endpoint_of(experiment.plan))
    questions = [
        _question(loss, runs, measure, comparison) for comparison in comparisons for measure in named
    ] + [_spread_question(comparison, spread) for comparison in comparisons]
    judged = judge_family(questions, experiment.plan, "stability") if questions else []
    tests = {(test.treatment, test.baseline, test.metric): test for test in judged}
    everything = [*measures, spread]
    return Stability(
        contrasts=tuple(_contrast(comparison, everything, tests, runs) for comparison in comparisons),
        noise=noise_shares(experiment, cells),
        runs=runs,
        loss=loss,
        family=len(questions),
        floor=min((test.holm.floor if test.holm else test.floor for test in judged), default=1.0),
    )


def _runs(experiment: Experiment, cells: pd.DataFrame) -> pd.DataFrame:
    losses = experiment.curves(loss_of(experiment.metrics), "train")
    measures = run_measures(losses, experiment.curves("grad_norm", "train"), _limits(cells))
    named = ["trial_id", "attempt", "arm", "seed", "status", "first_nonfinite_step"]
    return cells[named].merge(measures, on=["trial_id", "attempt"], how="left").drop(columns="attempt")


def _limits(cells: pd.DataFrame) -> pd.DataFrame:
    """Every run's max_grad_norm, as recorded or as its factor."""
    known = [name for name in ("factor.max_grad_norm", "max_grad_norm") if name in cells.columns]
    limit = pd.Series(np.nan, index=cells.index)
    for name in known:
        limit = limit.fillna(pd.to_numeric(cells[name].astype(object), errors="coerce").astype("float64"))
    return cells[["trial_id", "attempt"]].assign(max_grad_norm=limit)


def _question(loss: str, runs: pd.DataFrame, measure: Measure, comparison: Comparison) -> Question:
    """The measure's pairs, seeds and statuses as the primary endpoint has them."""
    raw = dict(zip(zip(runs["arm"], runs["seed"], strict=True), runs[measure.name], strict=True))
    rows = []
    for row in comparison.rows:
        values = [_on_scale(raw.get((arm, row.seed), np.nan), measure)
                  for arm in (comparison.baseline, comparison.treatment)]  # fmt: skip
        rows.append(_with_values(row, *values))
    return Question(
        treatment=comparison.treatment,
        baseline=comparison.baseline,
        endpoint=_endpoint(measure, loss),
        rows=tuple(rows),
        gates=comparison.gates,
    )


def _endpoint(measure: Measure, source: str) -> Endpoint:
    return Endpoint(
        metric=measure.name, source=source, split="train", at="final", k=1, direction="min",
        quantity=measure.label, unit=measure.unit,
    )  # fmt: skip


def _on_scale(value: float, measure: Measure) -> float | None:
    if not math.isfinite(value) or (measure.scale == "log" and value <= 0):
        return None
    return math.log(value) if measure.scale == "log" else float(value)


def _with_values(row: SeedRow, baseline: float | None, treatment: float | None) -> SeedRow:
    completed = row.kind in ("paired", "no endpoint")
    complete = completed and baseline is not None and treatment is not None
    return replace(
        row,
        kind="paired" if complete else "no endpoint" if completed else row.kind,
        baseline=baseline,
        treatment=treatment,
        delta=treatment - baseline if complete and treatment is not None and baseline is not None else None,
    )


def spread_measure(endpoint: Endpoint) -> Measure:
    return Measure(
        name="spread",
        label=f"spread of {endpoint.label} over seeds",
        unit=endpoint.unit,
        scale="raw",
        definition=(
            "each run's distance from its arm's median (Brown and Forsythe); a finding needs the paired t "
            f"test and the sign-flips of the differences, and at least {LEAST_PAIRS} pairs"
        ),
    )


def _spread_question(comparison: Comparison, measure: Measure) -> Question:
    """Distances from the arm's median, over the complete pairs of the primary endpoint."""
    paired = [row for row in comparison.rows if row.kind == "paired"]
    theirs, ours = _values(paired)
    finite = bool(np.isfinite(theirs).all() and np.isfinite(ours).all())
    far = dict(
        zip([row.seed for row in paired], zip(distances(theirs), distances(ours), strict=True), strict=True)
    )
    rows = [
        _with_values(row, *(map(float, far[row.seed]) if finite and row.seed in far else (None, None)))
        for row in comparison.rows
    ]
    return Question(
        treatment=comparison.treatment,
        baseline=comparison.baseline,
        endpoint=_endpoint(measure, comparison.endpoint.source),
        rows=tuple(rows),
        gates=comparison.gates,
    )


def _values(paired: Sequence[SeedRow]) -> tuple[Floats, Floats]:
    """The baseline's and the treatment's."""
    values = np.array([[row.baseline, row.treatment] for row in paired], dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _contrast(
    comparison: Comparison,
    measures: Sequence[Measure],
    tests: Mapping[tuple[str, str, str], Comparison],
    runs: pd.DataFrame,
) -> ContrastStability:
    names = (comparison.treatment, comparison.baseline)
    theirs, ours = _values([row for row in comparison.rows if row.kind == "paired"])
    bounded = np.isfinite(theirs) & np.isfinite(ours)
    first = (
        pd.to_numeric(runs["first_nonfinite_step"].astype(object), errors="coerce").groupby(runs["arm"]).min()
    )
    return ContrastStability(
        treatment=comparison.treatment,
        baseline=comparison.baseline,
        planned=comparison.planned,
        failures=comparison.failures,
        failure_test=comparison.failure_test,
        first_nonfinite_step={
            arm: int(first[arm]) if math.isfinite(first.get(arm, math.nan)) else None
            for arm in reversed(names)
        },
        measures=tuple(_measured(measure, tests.get((*names, measure.name)), names) for measure in measures),
        spread=spread_of(theirs[bounded], ours[bounded], comparison.alpha),
    )


def _measured(measure: Measure, test: Comparison | None, names: tuple[str, str]) -> Measured:
    if test is None:
        return Measured(
            measure=measure, treatment=names[0], baseline=names[1], finding="NOT MEASURED",
            why=f"it takes {NEEDS[measure.name]}", seeds=(), pairs=0,
            baseline_median=None, treatment_median=None,
            change=None, interval=None, p_signflip=None, p_t=None, p_adjusted=None,
        )  # fmt: skip
    back = math.exp if measure.scale == "log" else float
    paired = [row for row in test.rows if row.kind == "paired"]
    theirs, ours = _values(paired)
    finding, why = _finding(measure, test)
    return Measured(
        measure=measure,
        treatment=test.treatment,
        baseline=test.baseline,
        finding=finding,
        why=why,
        seeds=tuple((row.seed, _back(row.baseline, back), _back(row.treatment, back)) for row in test.rows),
        pairs=test.pairs,
        baseline_median=_back(float(np.median(theirs)), back) if paired else None,
        treatment_median=_back(float(np.median(ours)), back) if paired else None,
        change=_back(test.difference, back),
        interval=None if test.interval is None else (back(test.interval[0]), back(test.interval[1])),
        p_signflip=test.p_signflip,
        p_t=test.p_t,
        p_adjusted=_adjusted(test),
    )


def _back(value: float | None, back: Callable[[float], float]) -> float | None:
    return None if value is None else back(value)


def _adjusted(test: Comparison) -> float | None:
    ps = (test.p_signflip, test.p_t) if test.holm is None else (test.holm.p_signflip, test.holm.p_t)
    known = [p for p in ps if p is not None]
    return max(known) if len(known) == 2 else None


def _finding(measure: Measure, test: Comparison) -> tuple[Finding, str]:
    if test.verdict == "INVALID":
        return "INVALID", "a validity gate of the contrast failed"
    if measure.name == "spread" and test.pairs < LEAST_PAIRS:
        return "NOT TESTABLE", f"{test.pairs} complete pairs, and spread needs {LEAST_PAIRS}"
    if test.verdict == "NOT TESTABLE":
        floor = test.floor if test.holm is None else test.holm.floor
        return "NOT TESTABLE", (
            f"{test.pairs} complete pairs: the smallest p of the exact test is {min(1.0, floor):.3g}"
            + (f" for {test.holm.size} questions" if test.holm else "")
        )
    if test.cap is not None:
        unknown = test.cap == "interim" and test.imported
        return "INCONCLUSIVE", "why runs lack is not on record" if unknown else CAPS[test.cap]
    why = "the two arms do not differ on any seed" if test.verdict == "DEGENERATE" else ""
    return FINDINGS[test.verdict], why


CAPS = {
    "failures": "failed runs, ranked worst, do not point the same way",
    "interim": "the data were looked at before the plan allows it",
    "extension": "seeds were added after a look",
}
