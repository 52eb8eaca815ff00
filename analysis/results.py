"""Every finished number of a report, before anything is drawn or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.arms import arms_table, with_reasons
from analysis.bands import DifferenceCurve, difference_curves
from analysis.comparison import Comparison
from analysis.endpoints import endpoint_of
from analysis.factor_answers import FactorAnswer, factor_answers
from analysis.looks import same_arms
from analysis.names import QUANTITIES
from analysis.pairing import outcomes
from analysis.records import Experiment
from analysis.sentences import capitalised
from analysis.signflip import floor_of
from analysis.significance import answers, families_of, judge_family, question_of
from analysis.stability import Stability, stability_of

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
    def deviations(self) -> tuple[str, ...]:
        """What departs from a plan that was made once and carried out: one sentence each."""
        return tuple(_deviations(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON, the same for the same input."""
        plan = self.experiment.plan
        columns = ["arm", "seed", "trial_id", "status", "failure_reason", "attempts"]
        return {
            "format": 1,
            "experiment": plan.name,
            "plan_hash": plan.plan_hash,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "secondary": [comparison.to_dict() for comparison in self.secondary],
            "factorial": [answer.to_dict() for answer in self.factorial],
            "exploratory": [comparison.to_dict() for comparison in self.exploratory],
            "families": [asdict(family) for family in self.families],
            "deviations": list(self.deviations),
            "arms": [with_reasons(arm) for arm in self.arms],
            "stability": self.stability.to_dict(),
            "differences": [curve.to_dict() for curve in self.differences],
            "cells": records(self.cells[columns]),
            "why_null": {"cells.failure_reason": "the trial completed, or ended without a word"},
        }


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
        arms=arms_table(cells, experiment.curves("grad_norm", "train")),
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


def _deviations(results: Results) -> Iterator[str]:
    plan = results.experiment.plan
    yield from dict.fromkeys(
        f"{capitalised(comparison.banner)}." for comparison in results.comparisons if comparison.banner
    )
    for entry in plan.history:
        same = "the same arms" if entry in same_arms(plan, list(plan.arms)) else "other arms"
        looked = "and was looked at" if entry.looked else "and was not looked at"
        yield (
            f"An earlier plan ({entry.plan_hash}) with {same} and seeds {_listed(entry.seeds)} ran here "
            f"until {entry.at}, {looked}."
        )
    capped = [comparison for comparison in results.comparisons if comparison.cap == "interim"]
    if capped:
        look = capped[0].look
        yield f"This look, at {look.ended} of {look.planned} seeds, is not declared in the plan."


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts of plain Python values; a missing value is None."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
