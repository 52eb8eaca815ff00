"""From a paired table to a verdict: one contrast on one endpoint, or a family of them at one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import signflip
from analysis.comparison import Comparison, Role, Verdict, rounding_of
from analysis.endpoints import Endpoint, endpoint_of
from analysis.looks import Look, extension_of, level_of, look_at
from analysis.missingness import WorstRank, worst_rank
from analysis.multiplicity import Holm, family_of
from analysis.paired_tests import Statistics, described, estimated, tested, varies
from analysis.pairing import SeedRow, outcomes, pair_up
from analysis.plan import Contrast, Plan, ResultsError, unknown
from analysis.ragged import Floats
from analysis.records import Experiment
from analysis.validity import Gate, gates_of, notes_of
from analysis.verdicts import Terms, cap_of, ladder

__all__ = ["Comparison", "Question", "SeedRow", "compare", "judge", "judge_family"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One contrast on one endpoint, its pairs read and its gates checked, before any test."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    rows: tuple[SeedRow, ...]
    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def invalid(self) -> bool:
        return any(gate.status == "failed" for gate in self.gates)

    @property
    def deltas(self) -> Floats:
        return np.array([row.delta for row in self.rows if row.delta is not None], dtype=np.float64)


def compare(
    experiment: Experiment, *, treatment: str, baseline: str | None = None, metric: str | None = None
) -> Comparison:
    """Treatment against baseline on one endpoint, paired by seed on the planned grid.

    baseline: the plan's for this treatment when left out. metric: the plan's primary when left out. A
    question of the plan, or its mirror image, is answered within its family (Holm), as the report answers it;
    any other is exploratory: an estimate without p or claim. Raises ResultsError for unknown names; whatever
    the data hold gives a typed verdict.
    """
    plan = experiment.plan
    contrast = _contrast(plan, treatment, baseline)
    endpoint = endpoint_of(plan, metric)
    contrasts = [contrast if planned == contrast.mirrored else planned for planned in plan.contrasts]
    for role, metrics in families_of(plan).items():
        if endpoint.metric in metrics and contrast in contrasts:
            place = metrics.index(endpoint.metric) * len(contrasts) + contrasts.index(contrast)
            return answers(experiment, role, contrasts)[place]
    return judge_family([question_of(experiment, endpoint, contrast)], plan, "exploratory")[0]


def _contrast(plan: Plan, treatment: str, baseline: str | None) -> Contrast:
    if treatment not in plan.arms:
        raise unknown("arm", treatment, plan.arms)
    if baseline is None:
        planned = [contrast.baseline for contrast in plan.contrasts if contrast.treatment == treatment]
        baseline = planned[0] if planned else plan.baseline
    if baseline not in plan.arms:
        raise unknown("arm", baseline, plan.arms)
    if baseline == treatment:
        raise ResultsError(f"arm {treatment!r} cannot be compared with itself: name another baseline.")
    return Contrast(treatment=treatment, baseline=baseline)


def families_of(plan: Plan) -> dict[Role, tuple[str, ...]]:
    """Role -> endpoints whose planned contrasts share one level."""
    primary = plan.primary.metric
    secondary = tuple(dict.fromkeys(metric for metric in plan.secondary if metric != primary))
    return {"primary": (primary,), "secondary": secondary}


def answers(
    experiment: Experiment, role: Role, contrasts: Sequence[Contrast] | None = None
) -> list[Comparison]:
    """Every planned contrast on every endpoint of the family, endpoint by endpoint."""
    plan, questions = experiment.plan, []
    for metric in families_of(plan)[role]:
        endpoint = endpoint_of(plan, metric)
        table = outcomes(experiment, endpoint)
        questions += [
            question_of(experiment, endpoint, contrast, table) for contrast in contrasts or plan.contrasts
        ]
    return judge_family(questions, plan, role)


def question_of(
    experiment: Experiment, endpoint: Endpoint, contrast: Contrast, table: pd.DataFrame | None = None
) -> Question:
    """Reads one contrast; `table`: the endpoint's outcomes, where they are at hand."""
    pairs = pair_up(experiment, endpoint, contrast.treatment, contrast.baseline, table)
    return Question(
        treatment=contrast.treatment,
        baseline=contrast.baseline,
        endpoint=endpoint,
        rows=pairs.seed_rows(),
        gates=gates_of(experiment, pairs),
        notes=notes_of(pairs),
    )


def judge(question: Question, plan: Plan) -> Comparison:
    """The verdict on one primary question that shares its level with no other."""
    return judge_family([question], plan, "primary")[0]


def judge_family(questions: Sequence[Question], plan: Plan, role: Role) -> list[Comparison]:
    """The verdicts on questions that share one level, in the order given."""
    alpha, size = level_of(plan.alpha, plan.looks), len(questions)
    shared = size > 1 and plan.mode == "ab"
    numbers = [_numbers(question, alpha, role, size if shared else 1) for question in questions]
    ranked = [
        None
        if question.invalid or role == "exploratory"
        else worst_rank(question.rows, question.endpoint.harm_sign)
        for question in questions
    ]
    holms = _shared(questions, numbers, ranked, role) if shared else [None] * size
    return [
        _answer(question, plan, role, number, worst, adjusted)
        for question, number, worst, adjusted in zip(questions, numbers, ranked, holms, strict=True)
    ]


def _numbers(question: Question, alpha: float, role: Role, size: int) -> Statistics:
    deltas, noise = question.deltas, rounding_of(question.rows, question.endpoint)
    if question.invalid:
        return described(deltas)
    if role == "exploratory":
        return estimated(deltas, noise, alpha)
    return tested(deltas, noise, alpha, size)


def _shared(
    questions: Sequence[Question],
    numbers: Sequence[Statistics],
    ranked: Sequence[WorstRank | None],
    role: Role,
) -> Sequence[Holm | None]:
    """Every member's p, adjusted over the family; with failures ranked worst the others keep their p."""
    adjusted = family_of(
        role,
        min(signflip.floor_of(len(question.deltas)) for question in questions),
        [number.p_signflip for number in numbers],
        [number.p_t for number in numbers],
        [number.p_signflip if rank is None else rank.p for number, rank in zip(numbers, ranked, strict=True)],
    )
    return [
        member if rank else replace(member, p_worst_rank=None)
        for member, rank in zip(adjusted, ranked, strict=True)
    ]


def _answer(
    question: Question,
    plan: Plan,
    role: Role,
    numbers: Statistics,
    worst: WorstRank | None,
    adjusted: Holm | None,
) -> Comparison:
    is_primary = role == "primary"
    look = look_at(question.rows, plan)
    margin = plan.primary.margin if is_primary else None
    plain = Comparison(
        treatment=question.treatment,
        baseline=question.baseline,
        endpoint=question.endpoint,
        role=role,
        mode=plan.mode,
        alpha=look.alpha,
        margin=margin,
        sesoi=plan.primary.sesoi if is_primary else None,
        verdict="INVALID",
        statistics=numbers,
        rows=question.rows,
        worst_rank=worst,
        capped_from=None,
        cap=None,
        gates=question.gates,
        holm=adjusted,
        look=look,
        extension=extension_of(plan, (question.treatment, question.baseline)),
        offset=plan.seed_offset(question.treatment) != plan.seed_offset(question.baseline),
        notes=question.notes,
        imported=plan.imported is not None,
    )
    return plain if question.invalid else _with_verdict(plain, question.deltas, look)


def _with_verdict(plain: Comparison, deltas: Floats, look: Look) -> Comparison:
    """The first rung that holds, and what takes it back."""
    terms = Terms(alpha=plain.alpha, margin=plain.margin, harm_sign=plain.endpoint.harm_sign)
    if plain.mode == "aa" or plain.role == "exploratory":
        return replace(plain, verdict=_unclaimed(plain, deltas))
    verdict = ladder(plain.statistics, deltas, terms, plain.holm)
    cap = cap_of(
        verdict,
        plain.rows,
        terms,
        plain.statistics.lean,
        worst=plain.worst_rank,
        holm=plain.holm,
        allowed=look.allowed,
        extended=plain.extension is not None and plain.extension.costs,
    )
    if cap is None:
        return replace(plain, verdict=verdict)
    return replace(plain, verdict="INCONCLUSIVE", capped_from=verdict, cap=cap)


def _unclaimed(plain: Comparison, deltas: Floats) -> Verdict:
    """An A/A and an exploratory question claim nothing: identical runs are DEGENERATE, all else is open."""
    if not len(deltas):
        return "NOT TESTABLE"
    steady = np.isfinite(deltas).all() and not varies(deltas, rounding_of(plain.rows, plain.endpoint))
    if steady and (len(deltas) > 1 or not deltas.any()):
        return "DEGENERATE"
    return "INCONCLUSIVE" if len(deltas) > 1 else "NOT TESTABLE"
