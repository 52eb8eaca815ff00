"""Every finished number of a report, before anything is drawn or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.arms import arms_table, with_reasons
from analysis.bands import DifferenceCurve, difference_curves
from analysis.cautions import weak_teacher
from analysis.comparison import Comparison
from analysis.endpoints import endpoint_of
from analysis.factor_answers import FactorAnswer, factor_answers
from analysis.looks import same_arms
from analysis.names import QUANTITIES
from analysis.pairing import outcomes
from analysis.plan import Earlier, Plan
from analysis.records import Experiment
from analysis.sentences import capitalised
from analysis.setup import setup_of, weak_teachers
from analysis.signflip import floor_of
from analysis.significance import answers, families_of, judge_family, question_of
from analysis.stability import Stability, stability_of

MOST_NAMES = 20
"""Names of runs that a sentence lists."""
EXIT_CODES = {"INVALID": 2, "NOT TESTABLE": 3}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Questions that share one level."""

    name: str
    """primary, secondary or factorial."""
    size: int
    alpha: float
    floor: float
    """The smallest adjusted p that the exact test can give to one of them."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one experiment says."""

    experiment: Experiment
    comparisons: tuple[Comparison, ...]
    """The primary endpoint of every planned contrast, in planned order: the first is the headline."""
    secondary: tuple[Comparison, ...]
    """The secondary endpoints of every planned contrast: one family (Holm)."""
    factorial: tuple[FactorAnswer, ...]
    """Main effects and interactions on the primary endpoint: one family; empty without such a design."""
    exploratory: tuple[Comparison, ...]
    """Endpoints that were logged and that the plan does not name: estimates alone."""
    cells: pd.DataFrame
    """One row per planned cell, on the primary endpoint (see pairing.outcomes)."""
    arms: list[dict[str, Any]]
    """One row per arm (see arms.arms_table)."""
    stability: Stability
    """How steadily the arms trained, for every planned contrast."""
    differences: tuple[DifferenceCurve, ...]
    """The primary endpoint's difference along training, for every planned contrast."""

    @property
    def verdict(self) -> str:
        return self.comparisons[0].verdict if self.comparisons else "NOT TESTABLE"

    @property
    def sentence(self) -> str:
        if not self.comparisons:
            return "NOT TESTABLE: the plan names no contrast; add an arm to compare with the baseline."
        return self.comparisons[0].sentence

    @property
    def exit_code(self) -> int:
        """2 where any planned contrast is INVALID, else 3 where any is NOT TESTABLE, else 0."""
        verdicts = {self.verdict, *(comparison.verdict for comparison in self.comparisons)}
        return next((code for verdict, code in EXIT_CODES.items() if verdict in verdicts), 0)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that were asked, with what level and what floor; an A/A has none."""
        if self.experiment.plan.mode == "aa":
            return ()
        members: dict[str, Sequence[Comparison | FactorAnswer]] = {
            "primary": self.comparisons,
            "secondary": self.secondary,
            "factorial": self.factorial,
        }
        return tuple(_family(name, asked) for name, asked in members.items() if asked)

    @property
    def setup(self) -> dict[str, str]:
        """What was trained with what, or which records were read: name -> text."""
        return setup_of(self.experiment)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of any verdict here should know of the runs behind it: one sentence each."""
        return tuple(_remarks(self.experiment))

    @property
    def deviations(self) -> tuple[str, ...]:
        """What departs from a plan that was made once and carried out: one sentence each."""
        return tuple(_deviations(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON, the same for the same input."""
        plan = self.experiment.plan
        columns = ["arm", "seed", "trial_id", "status", "failure_reason", "attempts"]
        told = {
            "format": 1,
            "experiment": plan.name,
            "plan_hash": plan.plan_hash,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "secondary": [comparison.to_dict() for comparison in self.secondary],
            "factorial": [answer.to_dict() for answer in self.factorial],
            "exploratory": [comparison.to_dict() for comparison in self.exploratory],
            "setup": self.setup,
            "remarks": list(self.remarks),
            "families": [asdict(family) for family in self.families],
            "deviations": list(self.deviations),
            "arms": [with_reasons(arm) for arm in self.arms],
            "stability": self.stability.to_dict(),
            "differences": [curve.to_dict() for curve in self.differences],
            "cells": records(self.cells[columns]),
            "why_null": {"cells.failure_reason": "the trial completed, or ended without a word"},
        }
        return dict(_with_names(told, plan.seed_names)) if plan.seed_names else told


def analyse(experiment: Experiment) -> Results:
    """Every planned contrast on the primary endpoint and on the secondaries, and how the arms' runs went."""
    plan = experiment.plan
    cells = outcomes(experiment, endpoint_of(plan))
    comparisons = tuple(answers(experiment, "primary"))
    return Results(
        experiment=experiment,
        comparisons=comparisons,
        secondary=tuple(answers(experiment, "secondary")),
        factorial=tuple(factor_answers(experiment)),
        exploratory=tuple(_exploratory(experiment)),
        cells=cells,
        arms=arms_table(cells, experiment.curves("grad_norm", "train"), experiment.runs),
        stability=stability_of(experiment, cells, comparisons),
        differences=difference_curves(experiment, cells, comparisons),
    )


def _exploratory(experiment: Experiment) -> Iterator[Comparison]:
    """Every planned contrast on every known quantity that was logged and is not in the plan."""
    plan, metrics = experiment.plan, experiment.metrics
    named = {endpoint_of(plan, metric).source for names in families_of(plan).values() for metric in names}
    logged = set(metrics.loc[metrics["split"] == "eval", "metric"].unique())
    for metric in sorted(logged & (QUANTITIES.keys() | plan.quantities.keys()) - named):
        endpoint = endpoint_of(plan, metric)
        table = outcomes(experiment, endpoint)
        for contrast in plan.contrasts:
            question = question_of(experiment, endpoint, contrast, table)
            yield judge_family([question], plan, "exploratory")[0]


def _family(name: str, asked: Sequence[Comparison | FactorAnswer]) -> Family:
    least = min(floor_of(member.pairs) for member in asked)
    return Family(name=name, size=len(asked), alpha=asked[0].alpha, floor=min(1.0, len(asked) * least))


def _with_names(value: Any, names: Mapping[int, str]) -> Any:
    """Wherever a seed's number stands, what it is called stands beside it."""
    if isinstance(value, list):
        return [_with_names(part, names) for part in value]
    if not isinstance(value, dict):
        return value
    told = {name: _with_names(part, names) for name, part in value.items()}
    return {**told, "seed_name": names[told["seed"]]} if told.get("seed") in names else told


def _remarks(experiment: Experiment) -> Iterator[str]:
    imported = experiment.plan.imported
    if imported is not None:
        yield from imported.remarks
        if imported.ignored:
            yield ignored_text(imported.ignored)
    yield from weak_teacher(weak_teachers(experiment))


def ignored_text(names: Sequence[str]) -> str:
    """How many runs, or rows of a table, the mapping leaves out, and which."""
    shown = ", ".join(names[:MOST_NAMES]) + (", and more" if len(names) > MOST_NAMES else "")
    count = "1 run or row" if len(names) == 1 else f"{len(names)} runs or rows"
    return f"{count} without an arm or a seed left out, as the mapping says: {shown}."


def _deviations(results: Results) -> Iterator[str]:
    plan = results.experiment.plan
    yield from dict.fromkeys(
        f"{capitalised(comparison.banner)}." for comparison in results.comparisons if comparison.banner
    )
    for entry in plan.history:
        same = "the same arms" if entry in same_arms(plan, list(plan.arms)) else "other arms"
        other = " and another primary endpoint or margin" if asked_otherwise(plan, entry) else ""
        looked = "and was looked at" if entry.looked else "and was not looked at"
        yield (
            f"An earlier plan ({entry.plan_hash}) with {same}{other} and seeds {_listed(entry.seeds)} ran "
            f"here until {entry.at}, {looked}."
        )
    capped = [comparison for comparison in results.comparisons if comparison.cap == "interim"]
    if capped:
        look = capped[0].look
        yield f"This look, at {look.ended} of {look.planned} seeds, is not declared in the plan."


def asked_otherwise(plan: Plan, earlier: Earlier) -> bool:
    """Whether the earlier plan is known to have named another primary endpoint, reading or margin."""
    return earlier.primary is not None and dict(earlier.primary) != asdict(plan.primary)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts of plain Python values; a missing value is None."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
