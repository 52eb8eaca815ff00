"""The report's tables, as CSV for machines and LaTeX for papers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.comparison import Comparison
from analysis.pairing import SeedRow
from analysis.results import Results
from analysis.sentences import decimals_of, decimals_of_arms, interval_text, level, minus, number
from analysis.wording import adjusted_p, p_or_dash


def write_tables(results: Results, folder: Path) -> None:
    """NAME.csv of every table, and NAME.tex of those that go into papers."""
    names = results.experiment.plan.seed_names
    for name, table in tables_of(results).items():
        with_seed_names(table, names).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
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


def with_seed_names(table: pd.DataFrame, names: Mapping[int, str]) -> pd.DataFrame:
    """The table with what its seeds are called, where they have names."""
    return table.assign(seed_name=table["seed"].map(names)) if names and "seed" in table else table


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
        "Contrast",
        "$n$",
        "Difference",
        level(every[0]),
        "$p$, flips",
        "$p$, $t$",
        "$p$, Holm",
        "Verdict",
    ]
    rows = []
    for endpoint, asked in groupby(every, key=lambda comparison: comparison.endpoint):
        rows.append([f"{endpoint.label} ({endpoint.unit})"])
        for comparison in asked:
            d = decimals_of(comparison)
            rows.append(
                [
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
    caption = (
        f"Paired differences by seed of {plan.name} (plan {plan.plan_hash}): p by sign-flips, by the "
        "paired t test, and the larger of both after Holm."
    )
    return latex_table(heads, rows, "lrrrrrrl", caption, "comparisons")


def _latex_arms(results: Results) -> str:
    heads = ["Arm", "$n$", "Mean", "SD", "Failed", "Lost"]
    d = decimals_of_arms(results.arms)
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
    """A booktabs table, made smaller where it is wider than the text.

    Heads are LaTeX already; cells and caption are text and are escaped. A row of one cell heads a group.
    """
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(caption)}}}",
        f"\\label{{tab:{label}}}",
        "\\smallskip",
        "\\small",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(head.replace("%", "\\%") for head in heads) + " \\\\",
        *(["\\midrule"] if len(rows[0]) > 1 else []),
        *(_latex_row(row, len(columns)) for row in rows),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str], columns: int) -> str:
    if len(cells) == 1:
        return f"\\midrule\n\\multicolumn{{{columns}}}{{l}}{{{latex(cells[0])}}} \\\\"
    return " & ".join(map(latex, cells)) + " \\\\"


GREEK = "αβγδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0327",
                   "`'^~=u.\"rHvdc", strict=True))  # fmt: skip
"""Combining mark -> the command that puts it on a letter."""
LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\ttfamily\char34}", "`": "{`}",
    # At the start of a row these two would be an argument of the \\ before it.
    "[": "{[}", "*": "{*}",
    # Put between signs that would else become one, such as -- and ''.
    "\u200b": "{}",
    "−": "$-$", "–": r"\textendash{}", "—": r"\textemdash{}", "±": r"$\pm$", "×": r"$\times$",
    "·": r"$\cdot$", "°": r"$^\circ$", "²": "$^2$", "∞": r"$\infty$", "≤": r"$\leq$", "≥": r"$\geq$",
    "→": r"$\to$", "…": r"\ldots{}", "‘": "{`}", "’": "'", "“": "``", "”": "''", "µ": r"$\mu$",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}",
    **{letter: f"$\\{name}$" for letter, name in zip(GREEK, NAMES.split(), strict=True)},
}  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX, in plain ASCII: none of its signs take effect, and it stays on one line.

    A sign that LaTeX's own fonts lack stands as its code point, such as [U+6570].
    """
    text = minus(" ".join(unicodedata.normalize("NFC", text).split()))
    return "".join(map(_latex_sign, re.sub(r"([-',])(?=\1)", "\\1\u200b", text)))


def _latex_sign(sign: str) -> str:
    if sign in LATEX or (sign.isascii() and sign.isprintable()):
        return LATEX.get(sign, sign)
    apart = unicodedata.normalize("NFD", sign)
    if len(apart) == 2 and apart[0].isascii() and apart[1] in ACCENTS:
        return f"\\{ACCENTS[apart[1]]}{{{apart[0]}}}"
    return f"{{[}}U+{ord(sign):04X}]"
