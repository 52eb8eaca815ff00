"""Every finished number of a report, before anything is drawn or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.comparison import Comparison
from analysis.endpoints import endpoint_of
from analysis.pairing import outcomes
from analysis.records import Experiment
from analysis.significance import answers
from analysis.stability import arms_table

EXIT_CODES = {"INVALID": 2, "NOT TESTABLE": 3}


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one experiment says."""

    experiment: Experiment
    comparisons: tuple[Comparison, ...]
    """The primary endpoint of every planned contrast, in planned order: the first is the headline."""
    secondary: tuple[Comparison, ...]
    """The secondary endpoints of every planned contrast: one family (Holm)."""
    cells: pd.DataFrame
    """One row per planned cell, on the primary endpoint (see pairing.outcomes)."""
    arms: list[dict[str, Any]]
    """One row per arm (see stability.arms_table)."""

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
            "arms": self.arms,
            "cells": records(self.cells[columns]),
        }


def analyse(experiment: Experiment) -> Results:
    """Every planned contrast on the primary endpoint and on the secondaries, and how the arms' runs went."""
    plan = experiment.plan
    cells = outcomes(experiment, endpoint_of(plan))
    return Results(
        experiment=experiment,
        comparisons=tuple(answers(experiment, "primary")),
        secondary=tuple(answers(experiment, "secondary")),
        cells=cells,
        arms=arms_table(cells, experiment.metrics),
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts of plain Python values; a missing value is None."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
