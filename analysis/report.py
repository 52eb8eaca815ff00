"""The report of one experiment: report.html, report.md, results.json, figures/ and tables/."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.gallery import draw_all, seed_record
from analysis.page import render_html, render_markdown
from analysis.records import load
from analysis.results import Results, analyse
from analysis.significance import Comparison

FailOn = Literal["inferior", "inconclusive"]
FORBIDDEN: dict[FailOn | None, frozenset[str]] = {
    "inferior": frozenset({"INFERIOR"}),
    "inconclusive": frozenset({"INFERIOR", "INCONCLUSIVE", "DEGENERATE"}),
}
"""--fail-on -> verdicts of planned contrasts that make `kvtune report` exit with 1."""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """Where the report lies and what it says. Verdict and sentence are those of the plan's first contrast."""

    verdict: str
    sentence: str
    exit_code: int
    """2 where any planned contrast is INVALID, else 3 where any is NOT TESTABLE, else 0."""
    html: Path
    markdown: Path
    results: Path
    arms: list[dict[str, Any]]
    """Per arm in planned order: arm, n, mean, sd, failures and more (see stability.arms_table)."""
    comparisons: tuple[Comparison, ...]
    """The primary endpoint of every planned contrast."""

    def exit_code_for(self, fail_on: FailOn | None) -> int:
        """The exit code; 1 where the report can be trusted and a contrast ended as `fail_on` forbids."""
        verdicts = {comparison.verdict for comparison in self.comparisons}
        return self.exit_code or int(bool(verdicts & FORBIDDEN.get(fail_on, frozenset())))


def write_report(folder: str | os.PathLike[str]) -> ReportResult:
    """Reads an experiment folder and writes FOLDER/report anew.

    Raises ResultsError where plan or tables cannot be used; whatever the trials did ends as a verdict.
    """
    experiment = load(folder)
    results = analyse(experiment)
    out = experiment.folder.report
    for part in ("figures", "tables"):
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part).mkdir(parents=True)
    plates = draw_all(results, out / "figures")
    for name, table in _tables(results).items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False, lineterminator="\n")
    strict = json.dumps(results.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    _write(out / "results.json", strict + "\n")
    _write(out / "report.html", render_html(results, plates))
    _write(out / "report.md", render_markdown(results, plates))
    return ReportResult(
        verdict=results.verdict,
        sentence=results.sentence,
        exit_code=results.exit_code,
        html=out / "report.html",
        markdown=out / "report.md",
        results=out / "results.json",
        arms=results.arms,
        comparisons=results.comparisons,
    )


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    """File stem -> table, as written into tables/."""
    every = [*results.comparisons, *results.secondary]
    return {
        "arms": pd.DataFrame(results.arms),
        "cells": results.cells[["arm", "seed", "trial_id", "status", "failure_reason", "attempts", "value"]],
        "comparisons": pd.DataFrame([_summary(comparison) for comparison in every]),
        "seeds": pd.DataFrame(
            [{**_names(comparison), **seed_record(row)} for comparison in every for row in comparison.rows]
        ),
        "gates": pd.DataFrame(
            [{**_names(comparison), **vars(gate)} for comparison in every for gate in comparison.gates]
        ),
    }


def _names(comparison: Comparison) -> dict[str, str]:
    return {
        "treatment": comparison.treatment,
        "baseline": comparison.baseline,
        "metric": comparison.metric,
    }


def _summary(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.interval or (None, None)
    exact_low, exact_high = comparison.interval_exact or (None, None)
    return {
        **_names(comparison),
        "verdict": comparison.verdict,
        "planned": comparison.planned,
        "pairs": comparison.pairs,
        "difference": comparison.difference,
        "median": comparison.statistics.median,
        "sd": comparison.statistics.sd,
        "low": low,
        "high": high,
        "exact_low": exact_low,
        "exact_high": exact_high,
        "p_signflip": comparison.p_signflip,
        "p_t": comparison.p_t,
        "p_worst_rank": comparison.worst_rank.p if comparison.worst_rank else None,
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
