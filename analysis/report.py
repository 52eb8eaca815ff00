"""The report of one experiment: report.html, report.md, results.json, figures/ and tables/."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.canvas import arm_styles, house_style, inline, save, svg_of
from analysis.curves import ArmCurve, arm_curves, counts_text
from analysis.endpoints import Endpoint, endpoint_of
from analysis.figures import completeness_figure, curves_figure, paired_figure, strip_figure
from analysis.page import render_html, render_markdown
from analysis.pairing import outcomes
from analysis.records import Experiment, load
from analysis.significance import Comparison, compare
from analysis.stability import arms_table

EXIT_CODES = {"INVALID": 2, "NOT TESTABLE": 3}
SHOWN_SECONDARIES = 5


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


@dataclass(frozen=True, kw_only=True)
class FigureRecord:
    """One figure of the page: two drawings of the same numbers, and what to read beside it."""

    name: str
    title: str
    caption: str
    alt: str
    wide: str
    narrow: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """Every finished number of a report."""

    experiment: Experiment
    comparisons: tuple[Comparison, ...]
    secondary: tuple[Comparison, ...]
    cells: pd.DataFrame
    """One row per planned cell, on the primary endpoint."""
    arms: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """results.json: strict JSON, nothing that changes from one call to the next."""
        plan = self.experiment.plan
        return {
            "format": 1,
            "experiment": plan.name,
            "plan_hash": plan.plan_hash,
            "verdict": self.comparisons[0].verdict if self.comparisons else None,
            "sentence": self.comparisons[0].sentence if self.comparisons else None,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "secondary": [comparison.to_dict() for comparison in self.secondary],
            "arms": self.arms,
            "cells": _plain_records(
                self.cells[["arm", "seed", "trial_id", "status", "failure_reason", "attempts"]]
            ),
        }


def write_report(folder: str | os.PathLike[str]) -> ReportResult:
    """Reads an experiment folder and writes FOLDER/report anew.

    Raises ResultsError where the tables cannot be read or the plan has no contrast; whatever the trials did
    ends as a verdict.
    """
    experiment = load(folder)
    results = analyse(experiment)
    out = experiment.folder.report
    for stale in ("figures", "tables"):
        shutil.rmtree(out / stale, ignore_errors=True)
        (out / stale).mkdir(parents=True)
    with house_style():
        figures = _draw(results, out / "figures")
    _write_tables(results, out / "tables")
    content = json.dumps(results.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    _write(out / "results.json", content + "\n")
    _write(out / "report.html", render_html(results, figures))
    _write(out / "report.md", render_markdown(results, figures))
    verdicts = [EXIT_CODES.get(comparison.verdict, 0) for comparison in results.comparisons]
    return ReportResult(
        verdict=results.comparisons[0].verdict,
        sentence=results.comparisons[0].sentence,
        exit_code=2 if 2 in verdicts else max(verdicts),
        html=out / "report.html",
        markdown=out / "report.md",
        results=out / "results.json",
        arms=results.arms,
        comparisons=results.comparisons,
    )


def analyse(experiment: Experiment) -> Results:
    """Every planned contrast on the primary endpoint and the secondaries, and the arms' table."""
    plan = experiment.plan
    cells = outcomes(experiment, endpoint_of(plan))

    def contrasts(metric: str | None) -> list[Comparison]:
        return [
            compare(experiment, treatment=pair.treatment, baseline=pair.baseline, metric=metric)
            for pair in plan.contrasts
        ]

    return Results(
        experiment=experiment,
        comparisons=tuple(contrasts(None)),
        secondary=tuple(comparison for metric in plan.secondary for comparison in contrasts(metric)),
        cells=cells,
        arms=arms_table(cells, experiment.metrics),
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


# --- figures


def _draw(results: Results, folder: Path) -> list[FigureRecord]:
    return [
        _completeness(results, folder),
        *(
            _paired(results, comparison, n, folder)
            for n, comparison in enumerate(results.comparisons, start=1)
        ),
        *_curves(results, folder),
        _strips(results, folder),
    ]


def _record(
    name: str,
    title: str,
    caption: str,
    alt: str,
    table: pd.DataFrame,
    folder: Path,
    draw: Callable[[bool], Figure],
) -> FigureRecord:
    save(draw(False), folder / name)
    table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    wide, narrow = (inline(svg_of(draw(slim)), f"{name}-{'n' if slim else 'w'}") for slim in (False, True))
    return FigureRecord(name=name, title=title, caption=caption, alt=alt, wide=wide, narrow=narrow)
