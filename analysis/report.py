"""The report of one experiment: report.html, report.md, results.json, figures/ and tables/."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.comparison import Comparison
from analysis.gallery import draw_all, second_painter
from analysis.page import render_html, render_markdown
from analysis.records import load
from analysis.results import analyse
from analysis.tables import write_tables

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
    """Per arm in planned order: arm, n, mean, sd, failures and more (see arms.arms_table)."""
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
    out = experiment.folder.report
    with second_painter(len(experiment.metrics)) as second:
        results = analyse(experiment)
        for part in ("figures", "tables"):
            shutil.rmtree(out / part, ignore_errors=True)
            (out / part).mkdir(parents=True)
        gallery = draw_all(results, out / "figures", second)
    write_tables(results, out / "tables")
    strict = json.dumps(results.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    _write(out / "results.json", strict + "\n")
    _write(out / "report.html", render_html(results, gallery))
    _write(out / "report.md", render_markdown(results, gallery))
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


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
