"""The values that runs logged, each once per step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.imports.mapping import Mapped
from analysis.imports.runs import NAMED, Runs
from analysis.names import QUANTITIES
from analysis.plan import ResultsError

FRACTION = "fraction"
"""A unit that begins so is of values from 0 to 1."""


def values_of(runs: Runs, meaning: Mapped, keep: str) -> tuple[pd.DataFrame, list[str]]:
    """The long table of metrics, and what is to be told: trial, step, wall_s, metric, value.

    keep: which value counts where a run has two at one step: refuse, first, or last.
    """
    parts, remarks = [], []
    seconds = None if meaning.wall_s is None else runs.table.numbers(meaning.wall_s, "wall_s")
    for name, metric in meaning.metrics.items():
        values = runs.table.numbers(metric.column, f"metrics.{name}")
        logged = runs.rows.loc[values.index].assign(value=values)
        _refuse_without_step(logged, runs, metric.column)
        _refuse_no_fraction(logged, runs, name, metric.column, metric.unit)
        once, told = _once(logged, runs, metric.column, keep, meaning)
        wall_s = np.nan if seconds is None else seconds.reindex(once.index)
        parts.append(once.assign(metric=name, wall_s=wall_s))
        remarks += told + _said_of_tensors(runs, metric.column, logged)
    table = pd.concat(parts, ignore_index=True)
    whole = (table["step"] % 1 == 0).all()
    return table.astype({"step": "int64"} if whole else {}), remarks


def precision_of(values: pd.Series[Any]) -> float | None:
    """2^-24 where every value is one of float32, as TensorBoard keeps them; None for those of float64."""
    finite = values[np.isfinite(values)].to_numpy(np.float64)
    with np.errstate(over="ignore"):
        single = finite.astype(np.float32).astype(np.float64) == finite
    return 2.0**-24 if len(finite) and single.all() and (finite % 1 != 0).any() else None


def _refuse_without_step(logged: pd.DataFrame, runs: Runs, column: str) -> None:
    without = logged[logged["step"].isna()]
    if len(without):
        raise ResultsError(
            f"{runs.table.place(without.index[0])}: {column} has a value but {runs.step} has none "
            f"({len(without)} such rows): fill the step in, or name another column (step: COLUMN)."
        )


def _refuse_no_fraction(logged: pd.DataFrame, runs: Runs, name: str, column: str, unit: str | None) -> None:
    known = QUANTITIES.get(name)
    if not (known.unit if known else unit or "").startswith(FRACTION):
        return
    wrong = logged[np.isfinite(logged["value"]) & ((logged["value"] < 0) | (logged["value"] > 1))]
    if len(wrong):
        raise ResultsError(
            f"{runs.table.place(wrong.index[0])}: {name} is a fraction from 0 to 1, and {column} is "
            f"{wrong['value'].iloc[0]:.12g} there: divide the column and the margin by 100, or give the "
            f"metric a name of its own: accuracy_percent: {{column: {column}, direction: max, unit: '%'}}."
        )


def _once(
    logged: pd.DataFrame, runs: Runs, column: str, keep: str, meaning: Mapped
) -> tuple[pd.DataFrame, list[str]]:
    """One value per run and step; exact repetitions are one."""
    logged = logged[~logged.duplicated(["trial", "step", "value"])]
    over = _gone_over(logged) if runs.table.in_order else logged.duplicated(["trial", "step"], keep="last")
    if not over.any():
        return logged, []
    if keep == "refuse":
        raise ResultsError(_two_values(logged, over, runs, column, meaning))
    if keep == "first":
        over = logged.duplicated(["trial", "step"])
    return logged[~over], [_said_of_repetition(logged[over], runs, keep)]


def _gone_over(logged: pd.DataFrame) -> pd.Series[Any]:
    """Rows that a later one of the same run and of the same or an earlier step was written over."""
    back = logged.iloc[::-1]
    later = back.groupby("trial")["step"].cummin().groupby(back["trial"]).shift(1)
    return (later <= back["step"]).reindex(logged.index)


def _two_values(logged: pd.DataFrame, over: pd.Series[Any], runs: Runs, column: str, meaning: Mapped) -> str:
    """The refusal of the first run of which two values claim one place: both of them, and the ways out."""
    first = logged[over].iloc[0]
    after = logged[(logged["trial"] == first["trial"]) & (logged.index > first.name)]
    second = after[after["step"] <= first["step"]].iloc[0]
    place = f"two values of {column} at {runs.step} {first['step']:.12g}"
    if runs.step is None:
        place = f"several rows have a value of {column}"
    elif float(first["step"]) > float(second["step"]):
        place = f"{runs.step} goes back from {first['step']:.12g} to {second['step']:.12g}"
    values = " and ".join(f"{row['value']:.9g} ({_where(runs, row.name)})" for row in (first, second))
    return (
        f"{runs.who(first['trial'])}: {place}, {values}. {_ways_out(runs, first.name, second.name, meaning)}"
    )


def _where(runs: Runs, row: Any) -> str:
    known = runs.table.known.loc[row]
    return runs.table.place(row) if known["line"] else str(known["part"])


def _ways_out(runs: Runs, one: Any, other: Any, meaning: Mapped) -> str:
    """What would tell the rows apart: columns in which they differ; else which of them counts."""
    if runs.table.in_order and runs.table.known["part"].loc[[one, other]].nunique() > 1:
        return (
            "These are two files of one folder: move one of two runs elsewhere; of a run that was resumed "
            "`repeated: last` takes what was written last."
        )
    told_apart = runs.step is None or not runs.table.in_order  # one run's rows differ in all that it logs
    if told_apart and (differing := _differing(runs, one, other, meaning)):
        arms = ", ".join([*(place.called for place in meaning.arm), differing[0]])
        seeds = ", ".join([differing[0], *(place.called for place in meaning.seed)])
        steps = f"let it count steps (step: {differing[0]}), " if runs.step is None else ""
        return (
            f"The rows differ in {', '.join(differing[:3])}: {steps}make it part of the arm (arm: [{arms}]) "
            f"or of the block (seed: [{seeds}]), let it tell runs apart (run: {differing[0]}), or say which "
            "counts (repeated: first, or last)."
        )
    return (
        "Say which counts (repeated: first, or last, as for a final evaluation logged again), or name the "
        "column that tells runs apart (run: COLUMN)."
    )


def _differing(runs: Runs, one: Any, other: Any, meaning: Mapped) -> list[str]:
    """Columns that are no numbers of the comparison itself and tell two rows apart."""
    cells = runs.table.cells.loc[[one, other]].dropna(axis="columns", how="any")
    used = {metric.column for metric in meaning.metrics.values()} | {runs.step, meaning.wall_s}
    return [str(name) for name in cells if name not in used and cells[name].nunique() > 1]


def _said_of_repetition(gone: pd.DataFrame, runs: Runs, keep: str) -> str:
    steps = gone.groupby("trial", sort=False)["step"].first()
    told = [f"{runs.who(trial)}, {runs.step or 'row'} {step:.12g}" for trial, step in steps.items()]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    has = "1 run has" if len(told) == 1 else f"{len(told)} runs have"
    return f"{has} values twice, of which the one written {keep} counts: {'; '.join(told[:NAMED])}{more}."


def _said_of_tensors(runs: Runs, column: str, logged: pd.DataFrame) -> list[str]:
    texts = runs.table.cells.loc[logged.index, column]
    printed = texts.str.contains(r"(?:tensor|array)\(").sum()
    said = f"Values of {column} logged as printed tensors, which keep four decimals: {printed}."
    return [said] if printed else []
