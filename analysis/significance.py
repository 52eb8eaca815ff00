"""One contrast on one endpoint: the differences seed by seed, two tests, two intervals, one verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis import signflip
from analysis.endpoints import Endpoint, endpoint_of
from analysis.paired_tests import ROUNDING, Interval, Statistics, described, tested
from analysis.pairing import Gate, Kind, Pairs, pair_up
from analysis.plan import Plan, ResultsError, unknown
from analysis.records import ADMINISTRATIVE, FAILURES, Experiment
from analysis.sentences import next_step, sentence
from analysis.signflip import Floats

Verdict = Literal[
    "INVALID", "NOT TESTABLE", "DEGENERATE", "SUPERIOR", "INFERIOR", "EQUIVALENT", "NON-INFERIOR",
    "INCONCLUSIVE",
]  # fmt: skip


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


@dataclass(frozen=True, kw_only=True)
class WorstRank:
    """The sign-flip test on signed ranks with failures counted as worse than any value."""

    p: float
    direction: Literal["better", "worse", "neither"]
    pairs: int
    """Complete pairs and pairs with a failure."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer to one planned question. Differences are treatment - baseline in the metric's unit."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    alpha: float
    margin: float | None
    sesoi: float | None
    verdict: Verdict
    statistics: Statistics
    rows: tuple[SeedRow, ...]
    """Every planned seed."""
    worst_rank: WorstRank | None
    """None where nothing failed."""
    capped_from: Verdict | None
    """The verdict that the complete pairs alone would have given, where the failures withdraw it."""
    gates: tuple[Gate, ...]

    @property
    def metric(self) -> str:
        return self.endpoint.metric

    @property
    def difference(self) -> float | None:
        """Mean of the paired differences."""
        return self.statistics.difference

    @property
    def p_signflip(self) -> float | None:
        """Two-sided, exact up to 16 pairs."""
        return self.statistics.p_signflip

    @property
    def p_t(self) -> float | None:
        """Two-sided paired t test."""
        return self.statistics.p_t

    @property
    def interval(self) -> Interval | None:
        """Paired t interval at 1 - alpha."""
        return self.statistics.interval

    @property
    def interval_exact(self) -> Interval | None:
        """The values that the exact test does not reject at alpha; None where it can reject none."""
        return self.statistics.interval_exact

    @property
    def deltas(self) -> tuple[float, ...]:
        return tuple(row.delta for row in self.rows if row.delta is not None)

    @property
    def pairs(self) -> int:
        """Complete pairs."""
        return len(self.deltas)

    @property
    def planned(self) -> int:
        """Planned pairs."""
        return len(self.rows)

    @property
    def floor(self) -> float:
        """The smallest p that the exact test can give with these pairs."""
        return signflip.floor_of(self.pairs)

    @property
    def findings(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if gate.status == "failed")

    @property
    def failures(self) -> dict[str, int]:
        """Arm -> runs that diverged, crashed, ran out of memory or time."""
        return self._counted(FAILURES)

    @property
    def lost(self) -> dict[str, int]:
        """Arm -> planned runs lost for reasons apart from the arm."""
        return self._counted(ADMINISTRATIVE)

    def _counted(self, statuses: Sequence[str]) -> dict[str, int]:
        return {
            self.baseline: sum(row.baseline_status in statuses for row in self.rows),
            self.treatment: sum(row.treatment_status in statuses for row in self.rows),
        }

    @property
    def sentence(self) -> str:
        """The verdict for people, with everything it rests on."""
        return sentence(self)

    @property
    def next_step(self) -> str:
        """What would change the verdict."""
        return next_step(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: no NaN or infinity, and a reason for every null."""
        return {
            "treatment": self.treatment,
            "baseline": self.baseline,
            "metric": self.metric,
            "endpoint": self.endpoint.label,
            "unit": self.endpoint.unit,
            "direction": self.endpoint.direction,
            "verdict": self.verdict,
            "capped_from": self.capped_from,
            "sentence": self.sentence,
            "next_step": self.next_step,
            "alpha": self.alpha,
            "margin": self.margin,
            "sesoi": self.sesoi,
            "planned": self.planned,
            "pairs": self.pairs,
            "failures": self.failures,
            "lost": self.lost,
            **self._numbers(),
            "floor": self.floor,
            "scale": self.statistics.scale,
            "worst_rank": None if self.worst_rank is None else vars(self.worst_rank),
            "gates": [vars(gate) for gate in self.gates],
            "seeds": [_plain_row(row) for row in self.rows],
            "why_null": self._reasons(),
        }

    def _numbers(self) -> dict[str, Any]:
        numbers = self.statistics
        return {
            "difference": numbers.difference,
            "median": numbers.median,
            "sd": numbers.sd,
            "p_signflip": numbers.p_signflip,
            "p_t": numbers.p_t,
            "interval": None if numbers.interval is None else list(numbers.interval),
            "interval_exact": None if numbers.interval_exact is None else list(numbers.interval_exact),
        }

    def _reasons(self) -> dict[str, str]:
        reasons = {name: self._reason(name) for name, value in self._numbers().items() if value is None}
        if self.margin is None:
            reasons["margin"] = "none was named in the plan"
        if self.sesoi is None:
            reasons["sesoi"] = "none was named in the plan"
        if self.worst_rank is None:
            reasons["worst_rank"] = "no run failed" if not any(self.failures.values()) else "not tested"
        if self.capped_from is None:
            reasons["capped_from"] = "no failure changed the verdict"
        return reasons

    def _reason(self, name: str) -> str:
        if self.verdict == "INVALID" and self.pairs:
            return "a validity gate failed, so nothing was tested"
        if self.pairs < 1:
            return "there is no complete pair"
        if self.statistics.scale == "signed ranks":
            return "some run never reached the threshold: the exact test ran on signed ranks"
        if self.pairs < 2:
            return "one pair has no spread"
        if name == "interval_exact" and self.floor > self.alpha:
            return "the exact test can reject no value with so few pairs"
        return (
            "the differences do not vary"
            if self.verdict == "DEGENERATE"
            else "it is beyond the range of floats"
        )


def compare(
    experiment: Experiment, *, treatment: str, baseline: str | None = None, metric: str | None = None
) -> Comparison:
    """Treatment against baseline on one endpoint, paired by seed on the planned grid.

    baseline: the plan's for this treatment when left out. metric: the plan's primary when left out; another
    held-out metric is read off the curve in the same way and has no margin. Raises ResultsError for unknown
    names; whatever the data hold gives a typed verdict.
    """
    plan = experiment.plan
    if treatment not in plan.arms:
        raise unknown("arm", treatment, plan.arms)
    baseline = _baseline(plan, treatment) if baseline is None else baseline
    if baseline not in plan.arms:
        raise unknown("arm", baseline, plan.arms)
    if baseline == treatment:
        raise ResultsError(f"arm {treatment!r} cannot be compared with itself: name another baseline.")
    endpoint = endpoint_of(plan, metric)
    return judge(pair_up(experiment, endpoint, treatment, baseline), plan)


def _baseline(plan: Plan, treatment: str) -> str:
    planned = [contrast.baseline for contrast in plan.contrasts if contrast.treatment == treatment]
    return planned[0] if planned else plan.baseline


def judge(pairs: Pairs, plan: Plan) -> Comparison:
    """The verdict on a paired table: the first rung of the ladder that holds, capped by the failures."""
    is_primary = pairs.endpoint.metric == plan.primary.metric
    margin = plan.primary.margin if is_primary else None
    rows = tuple(_seed_row(row) for row in pairs.rows.to_dict("records"))
    deltas = np.array([row.delta for row in rows if row.delta is not None], dtype=np.float64)
    noise = ROUNDING * _largest(rows)
    invalid = any(gate.status == "failed" for gate in pairs.gates)
    numbers = described(deltas) if invalid else tested(deltas, noise, plan.alpha)
    first: Verdict = "INVALID" if invalid else _ladder(numbers, deltas, margin, pairs.endpoint, plan.alpha)
    worst = None if invalid else _worst_rank(rows, pairs.endpoint, 0.0)
    verdict = (
        first if worst is None else _capped(first, rows, pairs.endpoint, margin, plan.alpha, numbers.lean)
    )
    return Comparison(
        treatment=pairs.treatment,
        baseline=pairs.baseline,
        endpoint=pairs.endpoint,
        alpha=plan.alpha,
        margin=margin,
        sesoi=plan.primary.sesoi if is_primary else None,
        verdict=verdict,
        statistics=numbers,
        rows=rows,
        worst_rank=worst,
        capped_from=None if verdict == first else first,
        gates=pairs.gates,
    )


def _seed_row(row: dict[Any, Any]) -> SeedRow:
    return SeedRow(
        seed=int(row["seed"]),
        kind=row["kind"],
        baseline_status=str(row["baseline_status"]),
        treatment_status=str(row["treatment_status"]),
        baseline=None if math.isnan(row["baseline_value"]) else float(row["baseline_value"]),
        treatment=None if math.isnan(row["treatment_value"]) else float(row["treatment_value"]),
        delta=float(row["delta"]) if row["kind"] == "paired" else None,
    )


def _largest(rows: Sequence[SeedRow]) -> float:
    values = [abs(value) for row in rows for value in (row.baseline, row.treatment) if value is not None]
    return max((value for value in values if math.isfinite(value)), default=0.0)


def _ladder(
    numbers: Statistics, deltas: Floats, margin: float | None, endpoint: Endpoint, alpha: float
) -> Verdict:
    if signflip.floor_of(len(deltas)) > alpha:
        return "NOT TESTABLE"
    ranked = numbers.scale == "signed ranks"
    if numbers.p_t is None and (not ranked or not deltas.any()):
        return "DEGENERATE"
    tests = [p for p in (numbers.p_signflip, numbers.p_t) if p is not None]
    if max(tests) <= alpha and numbers.lean:
        return "INFERIOR" if numbers.lean == endpoint.harm_sign else "SUPERIOR"
    harms = [
        _as_harm(interval, endpoint) for interval in (numbers.interval, numbers.interval_exact) if interval
    ]
    if margin is None or len(harms) < 2:
        return "INCONCLUSIVE"
    if all(-margin < low and high < margin for low, high in harms):
        return "EQUIVALENT"
    return "NON-INFERIOR" if all(high < margin for _, high in harms) else "INCONCLUSIVE"


def _as_harm(interval: Interval, endpoint: Endpoint) -> Interval:
    low, high = interval
    return (low, high) if endpoint.harm_sign > 0 else (-high, -low)


def _worst_rank(rows: Sequence[SeedRow], endpoint: Endpoint, shift: float) -> WorstRank | None:
    """Signed ranks of harm + shift over complete and failed pairs; None where nothing failed.

    A failure is worse than any value: infinite harm of the side that failed, none where both failed.
    """
    if not any(row.kind == "failed" for row in rows):
        return None
    harms = np.array([_harm(row, endpoint) + shift for row in rows if row.kind in ("paired", "failed")])
    ranks = signflip.signed_ranks(harms)
    total = float(ranks.sum())
    direction: Literal["better", "worse", "neither"] = "neither"
    if total:
        direction = "worse" if total > 0 else "better"
    return WorstRank(p=signflip.p_value(ranks), direction=direction, pairs=len(harms))


def _harm(row: SeedRow, endpoint: Endpoint) -> float:
    if row.delta is not None:
        return row.delta * endpoint.harm_sign
    failed = (row.treatment_status in FAILURES, row.baseline_status in FAILURES)
    return {(True, False): math.inf, (False, True): -math.inf}.get(failed, 0.0)


def _capped(
    verdict: Verdict,
    rows: Sequence[SeedRow],
    endpoint: Endpoint,
    margin: float | None,
    alpha: float,
    lean: int,
) -> Verdict:
    """The verdict, or INCONCLUSIVE where counting the failures contradicts it.

    A claim must hold in direction and significance with failures ranked worst. Non-inferiority and
    equivalence must hold there against the margin, too.
    """
    if verdict in ("INVALID", "NOT TESTABLE", "DEGENERATE", "INCONCLUSIVE"):
        return verdict
    plain = _worst_rank(rows, endpoint, 0.0)
    assert plain is not None
    leaning = {0: "neither", endpoint.harm_sign: "worse", -endpoint.harm_sign: "better"}[lean]
    claims = verdict in ("SUPERIOR", "INFERIOR")
    if plain.direction != leaning or (plain.p <= alpha) != claims:
        return "INCONCLUSIVE"
    if not claims and margin is not None:
        bounds = [(-margin, "better")] + ([(margin, "worse")] if verdict == "EQUIVALENT" else [])
        for shift, wanted in bounds:
            shifted = _worst_rank(rows, endpoint, shift)
            if shifted is None or shifted.p > alpha or shifted.direction != wanted:
                return "INCONCLUSIVE"
    return verdict


def _plain_row(row: SeedRow) -> dict[str, Any]:
    """A row for JSON; `never reached` stands beside the null of an unbounded value."""
    plain: dict[str, Any] = dict(vars(row))
    notes = []
    for name in ("baseline", "treatment", "delta"):
        value = plain[name]
        if value is not None and not math.isfinite(value):
            plain[name] = None
            notes.append(f"{name}: never reached" if name != "delta" else "delta: unbounded")
    return {**plain, "note": "; ".join(notes)}
