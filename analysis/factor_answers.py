"""The verdicts on main effects and interactions: one Holm family over all of them, complete blocks alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import signflip
from analysis.comparison import CLAIMS, Cap, Verdict
from analysis.endpoints import Endpoint, endpoint_of
from analysis.factorial import Design, Effect, block_statuses, block_values, effects_of, scores_of
from analysis.looks import Look, extension_of, level_of
from analysis.multiplicity import Holm, family_of
from analysis.paired_tests import ROUNDING, Interval, Statistics, described, tested
from analysis.pairing import outcomes, pair_up
from analysis.plain import numbers_dict
from analysis.plan import Plan
from analysis.ragged import Floats
from analysis.records import ADMINISTRATIVE, FAILURES, Experiment
from analysis.sentences import decimals_for, interval_text, number, p_text, plural
from analysis.validity import gates_of
from analysis.verdicts import Terms, ladder


@dataclass(frozen=True, kw_only=True)
class FactorAnswer:
    """What the complete blocks say about one effect. Scores are in the metric's unit, one per seed."""

    effect: Effect
    endpoint: Endpoint
    alpha: float
    verdict: Verdict
    """SUPERIOR and INFERIOR tell the sign: of an interaction, whether the change does better there."""
    capped_from: Verdict | None
    cap: Cap | None
    statistics: Statistics
    scores: tuple[tuple[int, float], ...]
    """(seed, score) of every complete block."""
    planned: int
    failed: int
    """Blocks in which a run failed: left out, and then nothing is claimed."""
    lost: int
    holm: Holm | None
    findings: tuple[str, ...]
    """Checks that failed inside the design; any makes the effect INVALID."""

    @property
    def pairs(self) -> int:
        """Complete blocks."""
        return len(self.scores)

    @property
    def difference(self) -> float | None:
        return self.statistics.difference

    @property
    def interval(self) -> Interval | None:
        return self.statistics.interval

    @property
    def sentence(self) -> str:
        if self.verdict == "INVALID":
            return f"INVALID: {self.effect.name} was not tested. Failed checks: {'; '.join(self.findings)}."
        blocks = f"{self.pairs} of {plural(self.planned, 'block')} complete"
        if self.difference is None:
            return f"{self.verdict}: {self.effect.name} ({self.effect.kind}; {blocks})."
        width = None if self.interval is None else (self.interval[1] - self.interval[0]) / 2
        decimals, value = decimals_for(width), self.difference
        tests = f"exact p = {p_text(self.statistics.p_signflip)}, t p = {p_text(self.statistics.p_t)}"
        if self.holm is not None:
            adjusted = [p_text(p) for p in (self.holm.p_signflip, self.holm.p_t) if p is not None]
            tests += f"; after Holm over {self.holm.size} effects {' and '.join(adjusted)}"
        return (
            f"{self.verdict}: {self.effect.name} ({self.effect.kind}) is {number(value, decimals)} in "
            f"{self.endpoint.label} ({100 * (1 - self.alpha):g} % CI "
            f"{interval_text(self.interval, decimals)}; {blocks}, {tests}){self._taken_back()}."
        )

    def _taken_back(self) -> str:
        why = {
            "failures": f"a run failed in {plural(self.failed, 'block')}",
            "interim": "no look is declared before all blocks have ended",
            "extension": "seeds were added after an unplanned look",
        }
        return "" if self.cap is None else f"; {self.capped_from} is not claimed, for {why[self.cap]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON, with a reason for every null."""
        shared = None if self.holm is None else asdict(self.holm)
        plain = {
            "effect": self.effect.name,
            "kind": self.effect.kind,
            "design": self.effect.design.name,
            "weights": dict(self.effect.weights),
            "metric": self.endpoint.metric,
            "verdict": self.verdict,
            "capped_from": self.capped_from,
            "cap": self.cap,
            "sentence": self.sentence,
            "alpha": self.alpha,
            "planned": self.planned,
            "pairs": self.pairs,
            "failed": self.failed,
            "lost": self.lost,
            **numbers_dict(self.statistics),
            "holm": shared,
            "findings": list(self.findings),
            "scores": [{"seed": seed, "score": score} for seed, score in self.scores],
        }
        reasons = {name: self._reason(name) for name, value in plain.items() if value is None}
        inner = {f"holm.{name}": HOLM_NULLS[name] for name, value in (shared or {}).items() if value is None}
        return {**plain, "why_null": {**reasons, **inner}}

    def _reason(self, name: str) -> str:
        if name in ("capped_from", "cap"):
            return "nothing took the verdict back"
        if name == "holm":
            return "the effect shares its level with no other"
        if self.verdict == "INVALID":
            return "a validity gate failed, so nothing was tested"
        if self.pairs < 2:
            return "there are fewer than two complete blocks"
        if name.endswith("exact") and self.statistics.p_t is not None:
            return "the exact test can reject no value with so few blocks"
        return "the scores do not vary"


HOLM_NULLS = {
    "p_signflip": "it was not tested",
    "p_t": "the scores do not vary",
    "p_worst_rank": "a score of several runs has no rank for a failed one: failures forbid the claim instead",
}


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """One design's runs, seed by seed."""

    values: pd.DataFrame
    failed: int
    lost: int
    findings: tuple[str, ...]


def factor_answers(experiment: Experiment) -> list[FactorAnswer]:
    """Every main effect and interaction of the plan's designs on the primary endpoint."""
    plan = experiment.plan
    endpoint, effects = endpoint_of(plan), effects_of(plan)
    table = outcomes(experiment, endpoint) if effects else pd.DataFrame()
    blocks = {id(effect.design): _blocks_of(experiment, endpoint, effect.design, table) for effect in effects}
    found = [_unjudged(effect, endpoint, blocks[id(effect.design)], plan, len(effects)) for effect in effects]
    holms = _shared(found) if len(found) > 1 else [None] * len(found)
    return [
        _judged(replace(answer, holm=adjusted), plan) for answer, adjusted in zip(found, holms, strict=True)
    ]


def _blocks_of(experiment: Experiment, endpoint: Endpoint, design: Design, table: pd.DataFrame) -> _Blocks:
    statuses = block_statuses(table, design, experiment.plan)
    values = block_values(table, design, experiment.plan)
    lost = statuses.isin(ADMINISTRATIVE).any(axis=1)
    # A threshold that was never reached leaves the block without a score just as a failure does.
    failed = (statuses.isin(FAILURES) | np.isinf(values)).any(axis=1) & ~lost
    return _Blocks(
        values=values,
        failed=int(failed.sum()),
        lost=int(lost.sum()),
        findings=tuple(dict.fromkeys(_findings(experiment, endpoint, design, table))),
    )


def _findings(
    experiment: Experiment, endpoint: Endpoint, design: Design, table: pd.DataFrame
) -> Iterator[str]:
    """Failed checks between the arms at one point of the grid; across points a run may differ by design."""
    labels = experiment.plan.labels
    first: dict[str, str] = {}
    for label in design.labels:
        point = str(sorted(labels[label].point.items()))
        against = first.setdefault(point, label)
        if against != label:
            for gate in gates_of(experiment, pair_up(experiment, endpoint, label, against, table)):
                if gate.status == "failed":
                    yield f"{label} against {against}: {gate.name}: {gate.detail}"


def _unjudged(effect: Effect, endpoint: Endpoint, blocks: _Blocks, plan: Plan, family: int) -> FactorAnswer:
    scores = scores_of(blocks.values, effect)
    alpha = level_of(plan.alpha, plan.looks)
    return FactorAnswer(
        effect=effect,
        endpoint=endpoint,
        alpha=alpha,
        verdict="INVALID",
        capped_from=None,
        cap=None,
        statistics=_statistics(np.asarray(scores, dtype=np.float64), blocks, alpha, family),
        scores=tuple((int(str(seed)), float(score)) for seed, score in scores.items()),
        planned=len(plan.seeds),
        failed=blocks.failed,
        lost=blocks.lost,
        holm=None,
        findings=blocks.findings,
    )


def _statistics(scores: Floats, blocks: _Blocks, alpha: float, family: int) -> Statistics:
    if blocks.findings:
        return described(scores)
    sizes = np.abs(blocks.values.to_numpy(float))
    noise = ROUNDING * float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
    return tested(scores, noise, alpha, family)


def _shared(found: Sequence[FactorAnswer]) -> Sequence[Holm | None]:
    return family_of(
        "factorial",
        min(signflip.floor_of(answer.pairs) for answer in found),
        [answer.statistics.p_signflip for answer in found],
        [answer.statistics.p_t for answer in found],
        [None] * len(found),
    )


def _judged(answer: FactorAnswer, plan: Plan) -> FactorAnswer:
    if answer.findings:
        return answer
    scores = np.array([score for _, score in answer.scores], dtype=np.float64)
    terms = Terms(alpha=answer.alpha, margin=None, harm_sign=answer.endpoint.harm_sign)
    verdict = ladder(answer.statistics, scores, terms, answer.holm)
    cap = _cap(answer, plan) if verdict in CLAIMS else None
    if cap is None:
        return replace(answer, verdict=verdict)
    return replace(answer, verdict="INCONCLUSIVE", capped_from=verdict, cap=cap)


def _cap(answer: FactorAnswer, plan: Plan) -> Cap | None:
    if answer.failed:
        return "failures"
    extension = extension_of(plan, answer.effect.design.labels)
    if extension is not None and extension.costs:
        return "extension"
    look = Look(
        declared=plan.looks, ended=answer.planned - answer.lost, planned=answer.planned, alpha=answer.alpha
    )
    return None if look.allowed else "interim"
