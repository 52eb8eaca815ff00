"""Questions as plain numbers, without files: for tests of what the statistics make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.comparison import Comparison, Role
from analysis.endpoints import endpoint_of
from analysis.pairing import Kind, SeedRow
from analysis.plan import Cell, Contrast, Earlier, Label, Plan, Primary
from analysis.records import ADMINISTRATIVE, FAILURES
from analysis.significance import Question, judge_family

Statuses = Mapping[tuple[str, int], str]


def plan_of(
    arms: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("flat", "structured"),
    seeds: Sequence[int] = range(8),
    *,
    margin: float | None = 0.02,
    direction: Any = "min",
    sesoi: float | None = 0.05,
    history: Sequence[Earlier] = (),
    **fields: Any,
) -> Plan:
    """A plan of these arms against the first one."""
    overrides = arms if isinstance(arms, Mapping) else {arm: {"alignment_mode": arm} for arm in arms}
    first, *others = overrides
    known: dict[str, Any] = {
        "name": "fake",
        "plan_hash": "0123456789ab",
        "arms": overrides,
        "seeds": tuple(seeds),
        "declared_factors": ("alignment_mode",),
        "cells": tuple(
            Cell(trial_id=f"{arm}-seed{seed}-0", arm=arm, seed=seed, config_hash="0", factors={})
            for arm in arms
            for seed in seeds
        ),
        "contrasts": tuple(Contrast(treatment=arm, baseline=first) for arm in others),
        "baseline": first,
        "primary": Primary(
            metric="eval_ce", split="eval", at="final", k=3, direction=direction, margin=margin, sesoi=sesoi
        ),
        "secondary": ("eval_accuracy",),
        "alpha": 0.05,
        "mode": "ab",
        "looks": (),
        "grid": {},
        "labels": {arm: Label(arm=arm, point={}) for arm in arms},
        "history": tuple(history),
    }
    return Plan(**{**known, **fields})


def question(
    plan: Plan,
    baseline: Sequence[float],
    treatment: Sequence[float],
    *,
    statuses: Statuses | None = None,
    arm: str | None = None,
) -> Question:
    """The arm (the second one) against the first, seed by seed; statuses: (arm, place) -> status."""
    theirs, second = list(plan.arms)[:2]
    ours = arm or second
    told = statuses or {}
    rows = [
        _row(
            seed,
            (told.get((theirs, place), "completed"), baseline[place]),
            (told.get((ours, place), "completed"), treatment[place]),
        )
        for place, seed in enumerate(plan.seeds)
    ]
    return Question(treatment=ours, baseline=theirs, endpoint=endpoint_of(plan), rows=tuple(rows))


def _row(seed: int, theirs: tuple[str, float], ours: tuple[str, float]) -> SeedRow:
    statuses = [
        status if status != "completed" or math.isfinite(value) else "diverged"
        for status, value in (theirs, ours)
    ]
    values = [
        value if status == "completed" else None
        for status, (_, value) in zip(statuses, (theirs, ours), strict=True)
    ]
    kind: Kind = "paired"
    if any(status in ADMINISTRATIVE for status in statuses):
        kind = "lost"
    elif any(status in FAILURES for status in statuses):
        kind = "failed"
    return SeedRow(
        seed=seed,
        kind=kind,
        baseline_status=statuses[0],
        treatment_status=statuses[1],
        baseline=values[0],
        treatment=values[1],
        delta=None if kind != "paired" or None in values else values[1] - values[0],  # type: ignore[operator]
    )


def judged(
    baseline: Sequence[float],
    treatment: Sequence[float],
    *,
    statuses: Statuses | None = None,
    role: Role = "primary",
    **plan: Any,
) -> Comparison:
    """The answer to one question of a plan made for it."""
    made = plan_of(seeds=plan.pop("seeds", range(len(baseline))), **plan)
    return judge_family([question(made, baseline, treatment, statuses=statuses)], made, role)[0]


def judged_family(
    baseline: Sequence[float],
    treatments: Mapping[str, Sequence[float]],
    *,
    statuses: Statuses | None = None,
    **plan: Any,
) -> dict[str, Comparison]:
    """The answers to several arms against one baseline, by arm."""
    made = plan_of(("flat", *treatments), range(len(baseline)), **plan)
    asked = [
        question(made, baseline, values, statuses=statuses, arm=arm) for arm, values in treatments.items()
    ]
    return {answer.treatment: answer for answer in judge_family(asked, made, "primary")}
