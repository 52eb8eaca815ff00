"""The report's tables, as CSV for machines and LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.comparison import Comparison
from analysis.pairing import SeedRow
from analysis.results import Results
from analysis.sentences import decimals_for, decimals_of, interval_text, level, number
from analysis.wording import adjusted_p, p_or_dash


def write_tables(results: Results, folder: Path) -> None:
    """NAME.csv of every table, and NAME.tex of those that go into papers."""
    for name, table in tables_of(results).items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    for name, text in latex_tables(results).items():
        (folder / f"{name}.tex").write_text(text, encoding="utf-8", newline="\n")


def tables_of(results: Results) -> dict[str, pd.DataFrame]:
    """File stem -> table."""
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


def seed_record(row: SeedRow) -> dict[str, Any]:
    """One planned seed as a line of a CSV."""
    return {
        "seed": row.seed,
        "kind": row.kind,
        "baseline_status": row.baseline_status,
        "treatment_status": row.treatment_status,
        "baseline_value": row.baseline,
        "treatment_value": row.treatment,
        "difference": row.delta,
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
        "p_adjusted": adjusted_p(comparison),
        "p_worst_rank": comparison.worst_rank.p if comparison.worst_rank else None,
    }


# --- LaTeX: booktabs, every name escaped


def latex_tables(results: Results) -> dict[str, str]:
    """File stem -> a table environment, ready for \\input."""
    texts = {}
    if results.comparisons:
        texts["comparisons"] = _latex_comparisons(results)
    if results.arms:
        texts["arms"] = _latex_arms(results)
    return texts


def _latex_comparisons(results: Results) -> str:
    every = [*results.comparisons, *results.secondary]
    heads = [
        "Endpoint",
        "Contrast",
        "$n$",
        "Difference",
        level(every[0]),
        "$p$ (sign-flip)",
        "$p$ ($t$)",
        "$p$ (both, Holm)",
        "Verdict",
    ]
    rows = []
    for comparison in every:
        d = decimals_of(comparison)
        rows.append(
            [
                comparison.endpoint.label,
                f"{comparison.treatment} − {comparison.baseline}",
                str(comparison.pairs),
                number(comparison.difference, d),
                interval_text(comparison.interval, d),
                p_or_dash(comparison.p_signflip),
                p_or_dash(comparison.p_t),
                p_or_dash(adjusted_p(comparison)),
                comparison.verdict,
            ]
        )
    plan = results.experiment.plan
    caption = f"Paired differences by seed of {plan.name} (plan {plan.plan_hash})."
    return latex_table(heads, rows, "llrrrrrrl", caption, "comparisons")


def _latex_arms(results: Results) -> str:
    heads = ["Arm", "$n$", "Mean", "SD", "Failed", "Lost"]
    spreads = [arm["sd"] for arm in results.arms if arm["sd"]]
    d = decimals_for(min(spreads) / 10 if spreads else None)
    rows = [
        [
            arm["arm"],
            f"{arm['n']} of {arm['planned']}",
            number(arm["mean"], d),
            number(arm["sd"], d),
            str(arm["failures"]),
            str(arm["lost"]),
        ]
        for arm in results.arms
    ]
    metric = results.experiment.plan.primary.metric
    caption = f"Completed runs by arm, {metric}, of {results.experiment.plan.name}."
    return latex_table(heads, rows, "lrrrrr", caption, "arms")


def latex_table(heads: list[str], rows: list[list[str]], columns: str, caption: str, label: str) -> str:
    """A booktabs table. Heads are LaTeX already; cells and caption are text and are escaped."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(caption)}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(head.replace("%", "\\%") for head in heads) + " \\\\",
        "\\midrule",
        *(" & ".join(latex(cell) for cell in row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "–": "--",
    "±": r"$\pm$", "²": r"$^2$", "∞": r"$\infty$",
}  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX: none of its signs take effect, and it stays on one line."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "−", " ".join(text.split()))
    return "".join(LATEX.get(sign, sign) for sign in text)
