"""Which rows are whose: arm, block (seed) and run of every row, and how every run ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from analysis.imports.mapping import ACCURACY, Mapped, Place
from analysis.imports.table import MISSING, Table
from analysis.plan import ResultsError, unknown
from analysis.records import STATUSES

ENDINGS = {
    word: status
    for status, words in {
        "completed": "finished completed complete success succeeded terminated done",
        "crashed": "crashed failed failure fail error errored",
        "oom": "out_of_memory",
        "diverged": "nan",
        "stopped": "pruned",
        "cancelled": "killed cancelled canceled aborted interrupted",
        "preempted": "preempted preempting",
        "running": "running paused",
        "not_run": "pending queued scheduled",
    }.items()
    for word in words.split()
}
"""How W&B, Ray, MLflow, Optuna and Slurm say that a run ended, in small letters -> status."""
EXACT = 2**53
"""Seeds and steps up to it are whole numbers for every reader of the files."""
NAMED = 10
"""Runs that a message lists."""


@dataclass(frozen=True)
class Runs:
    """The rows that belong to an arm and a block, and one row per run."""

    table: Table
    rows: pd.DataFrame
    """Index as the table's: trial (a run's place in `ends`), step (float; 0 in a table of final values)."""
    ends: pd.DataFrame
    """One row per run: arm, seed (the block's number), run (its name), key, status, failure_reason,
    completed_steps (NaN where nothing counts steps), attempt."""
    seed_names: Mapping[int, str]
    """Blocks that are no plain seeds: number -> what they are called."""
    seeds: tuple[int, ...]
    """The planned blocks: as the mapping plans them, else those found."""
    step: str | None
    """The column of steps; None: a table of final values."""
    ignored: tuple[str, ...]
    """Runs of which nobody knows arm or seed."""
    remarks: tuple[str, ...]

    def who(self, trial: Any) -> str:
        """A run, for sentences."""
        end = self.ends.loc[int(trial)]
        return f"arm {end['arm']}, seed {self.seed_name(int(str(end['seed'])))}"

    def seed_name(self, seed: int) -> str:
        """What a block is called."""
        return self.seed_names.get(seed, str(seed))


def runs_of(table: Table, meaning: Mapped) -> Runs:
    """Every row's arm, block, run and step. ResultsError names file, line or run, and the way out."""
    arm, seed = _told(table, meaning.arm, "arm"), _told(table, meaning.seed, "seed")
    matched = arm.notna() & seed.notna()
    ignored = _unmatched(table, meaning, arm, seed)
    kept = Table(
        table.cells[matched], table.known[matched], table.step, table.in_order, table.remarks, table.twice
    )
    numbers, names, seeds = _blocks(kept, seed[matched], meaning)
    column, remarks = _step_column(kept, meaning)
    steps = _steps(kept, column, meaning)
    key = kept.known["key"] if meaning.run is None else kept.column(meaning.run, "run").fillna("")
    place = pd.DataFrame({"arm": arm[matched], "seed": numbers, "key": key.astype(str)})
    trial = place.groupby(["arm", "seed", "key"], sort=False).ngroup()
    rows = pd.DataFrame({"trial": trial, "step": steps})
    planned = _planned(kept, column, meaning)
    ends, aside = _ends(kept, place, rows, column, planned, meaning)
    return Runs(
        kept,
        rows,
        ends,
        names,
        seeds,
        column,
        ignored,
        (*table.remarks, *remarks, *aside, *_said_of(ends, column, planned)),
    )


def _told(table: Table, places: Sequence[Place], asked_by: str) -> pd.Series[Any]:
    """What the places hold, joined by a space; missing where one of them holds nothing."""
    parts = [_found(table, place, asked_by) for place in places]
    texts = parts[0]
    for part in parts[1:]:
        texts = texts + " " + part
    return texts


def _found(table: Table, place: Place, asked_by: str) -> pd.Series[Any]:
    if place.column is not None:
        texts = table.column(place.column, asked_by).str.strip()
        return texts.where(~texts.str.lower().isin({*MISSING, "nan"} if asked_by == "seed" else {""}))
    texts, pattern = (table.known["file"], place.path) if place.path else (table.known["run"], place.run)
    assert pattern is not None
    return texts.astype("str").str.extract(pattern, expand=False)


def _unmatched(table: Table, meaning: Mapped, arm: pd.Series[Any], seed: pd.Series[Any]) -> tuple[str, ...]:
    """Who lacks an arm or a seed: names of runs, or places of rows; refused unless they are to be ignored."""
    lost = arm.isna() | seed.isna()
    if not lost.any():
        return ()
    every = _names_of(table, meaning)
    names = (
        list(every[lost].unique()) if every is not None else [table.place(row) for row in lost.index[lost]]
    )
    if meaning.unmatched == "ignore" and not lost.all():
        return tuple(names)
    total = len(lost) if every is None else every.nunique()
    lacking = " and ".join(
        f"no {what} in {' and '.join(place.called for place in places)}"
        for what, places, told in (("arm", meaning.arm, arm), ("seed", meaning.seed, seed))
        if told.isna().any()
    )
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    way = (
        ""
        if lost.all()
        else ", or say `unmatched: ignore` in the mapping, which leaves them out and tells it"
    )
    what = "rows" if every is None else "runs"
    raise ResultsError(
        f"the mapping finds {lacking} for {len(names)} of {total} {what}: {listed}. Correct its arm and "
        f"seed{way}."
    )


def _names_of(table: Table, meaning: Mapped) -> pd.Series[Any] | None:
    """What every row's run is called: its name, where two share one what tells them apart.

    None in a CSV of all runs whose mapping names no column of them.
    """
    if meaning.run is not None:
        return table.cells[meaning.run].fillna("without a name")
    if (table.known["line"] > 0).all() and (table.known["key"] == table.known["file"]).all():
        return None
    keys = table.known.groupby("run")["key"].transform("nunique")
    return table.known["run"].where(keys == 1, table.known["key"]).astype(str)


def _blocks(
    table: Table, seed: pd.Series[Any], meaning: Mapped
) -> tuple[pd.Series[Any], dict[int, str], tuple[int, ...]]:
    """Every row's block as a number, the blocks' names where they need some, and the planned blocks.

    A plain seed is its own number; blocks of several columns, and seeds that no JSON reader keeps exact, are
    counted in their order.
    """
    single = len(meaning.seed) == 1
    found = {
        text: _spelled(text, f"{table.place(row)}: seed", plain=single)
        for row, text in seed.drop_duplicates().items()
    }
    given = [_spelled(text, "mapping: seeds:", plain=single) for text in meaning.seeds or []]
    planned = list(dict.fromkeys(given)) or sorted(set(found.values()), key=_natural)
    plain = single and all(abs(int(name)) <= EXACT for name in (*found.values(), *planned))
    if plain:
        numbers = {name: int(name) for name in (*found.values(), *planned)}
    else:
        numbers = {name: n for n, name in enumerate(sorted({*found.values(), *planned}, key=_natural))}
    names = {} if plain else {number: name for name, number in numbers.items()}
    return (
        seed.map(lambda text: numbers[found[text]]).astype("int64"),
        names,
        tuple(numbers[name] for name in planned),
    )


def _spelled(text: str, place: str, *, plain: bool) -> str:
    """A seed in its shortest form (3 for 3.0); of a block, each of its parts."""
    whole = [_whole(part) or part for part in ([text] if plain else text.split(" "))]
    if plain and _whole(text) is None:
        raise ResultsError(
            f"{place} {text!r} is no whole number, such as 0 or 17: write seeds as such. A seed that is "
            "named together with its task is given as seed: [task, seed]."
        )
    return " ".join(whole)


def _whole(text: str) -> str | None:
    try:
        number = Decimal(text)
        return str(int(number)) if "_" not in text and number == number.to_integral_value() else None
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by size, texts by letter."""
    return [(0, int(part), "") if _whole(part) else (1, 0, part) for part in name.split(" ")]


def _step_column(table: Table, meaning: Mapped) -> tuple[str | None, list[str]]:
    """The column of steps, or None where the table holds each run's final values."""
    if meaning.step is None:
        return next((name for name in (table.step, "step") if name in table.cells), None), []
    if meaning.step in table.cells:
        return meaning.step, []
    columns = [str(name) for name in table.cells.columns]
    if get_close_matches(meaning.step, columns, n=1):
        raise unknown("mapping: step: column", meaning.step, columns)
    return None, [f"No column is called {meaning.step}: each row was taken for a run's final values."]


def _steps(table: Table, column: str | None, meaning: Mapped) -> pd.Series[Any]:
    if column is None:
        return pd.Series(0.0, index=table.cells.index)
    steps = table.numbers(column, "step").reindex(table.cells.index)
    wrong = steps[(steps < 0) | (steps > EXACT)]
    if len(wrong):
        raise ResultsError(
            f"{table.place(wrong.index[0])}: {column} is {wrong.iloc[0]:.12g}; steps count from 0 up to 2^53"
            ": correct the column, or name another (step: COLUMN)."
        )
    return steps


def _planned(table: Table, step: str | None, meaning: Mapped) -> pd.Series[Any]:
    """The last step that every row's run was to reach; NaN where nothing says, or another column counts."""
    told: Any = table.known["planned"] if step == table.step else np.nan
    if column := meaning.recorded.get("planned_steps"):
        told = table.numbers(column, "recorded.planned_steps")
    return pd.Series(meaning.planned_steps or told, index=table.known.index, dtype=np.float64)


def _ends(
    table: Table,
    place: pd.DataFrame,
    rows: pd.DataFrame,
    step: str | None,
    planned: pd.Series[Any],
    meaning: Mapped,
) -> tuple[pd.DataFrame, list[str]]:
    """How every run ended, and what is told of folders that are none.

    Several runs of one arm and seed are its attempts if all but one did not complete.
    """
    primary = table.numbers(_source(meaning), f"metrics.{meaning.analysis.primary}")
    primary = primary[rows["step"].loc[primary.index].notna()]
    furthest = rows["step"].loc[primary.index].max() if len(primary) else 0.0
    by_run = dict(list(primary.groupby(rows["trial"].loc[primary.index])))
    told = None if meaning.status is None else table.column(meaning.status, "status")
    found = []
    for trial, own in place.groupby(rows["trial"], sort=False):
        at = rows["step"].loc[own.index]
        points = by_run.get(trial, primary.iloc[:0])
        known = table.known.loc[own.index[-1]]
        status, reason = _recorded(known, None if told is None else told.loc[own.index], meaning)
        if status in (None, "completed"):
            status, reason = _by_its_rows(
                status, reason, at, points, furthest, planned.loc[own.index].max(), step, meaning
            )
        last = at.max() if step is not None else np.nan
        first = own.iloc[0]
        found.append(
            (trial, first["arm"], first["seed"], str(known["run"]), first["key"], status, reason, last)
        )
    columns = ["trial", "arm", "seed", "run", "key", "status", "failure_reason", "completed_steps"]
    ends = pd.DataFrame(found, columns=columns).sort_values("trial", ignore_index=True)
    ends, aside = _without_parts(ends, set(by_run))
    return _attempts(ends), aside


def _without_parts(ends: pd.DataFrame, measured: set[Any]) -> tuple[pd.DataFrame, list[str]]:
    """Without what logged no primary metric beside a run of its arm and seed that did.

    Some loggers give every curve of a run a folder of its own: these are no attempts.
    """
    has = ends["trial"].isin(measured)
    beside = has.groupby([ends["arm"], ends["seed"]]).transform("any")
    part = ~has & beside & (ends["status"] == "stopped")
    if not part.any():
        return ends, []
    names = ", ".join(ends.loc[part, "run"].unique()[:NAMED])
    told = (
        f"Without the primary metric, beside a run of their arm and seed that logged it: {part.sum()} "
        f"({names}). They were taken for parts of that run."
    )
    return ends[~part], [told]


def _source(meaning: Mapped) -> str:
    """The column that the primary endpoint is read from; that of accuracy for steps_to_N."""
    return (meaning.metrics.get(meaning.analysis.primary) or meaning.metrics[ACCURACY]).column


def _recorded(
    known: pd.Series[Any], told: pd.Series[Any] | None, meaning: Mapped
) -> tuple[str | None, str | None]:
    """A run's status by the mapping's column, else by its source; None where neither says."""
    said = [] if told is None else [text for text in told.dropna() if text.lower() not in MISSING]
    if said:
        return _status(said[-1], meaning), f"its record says {said[-1]}"
    if isinstance(known["status"], str) and known["status"].lower() not in MISSING:
        return _status(known["status"], meaning), None if pd.isna(known["reason"]) else str(known["reason"])
    return None, None


def _status(word: str, meaning: Mapped) -> str:
    small = word.strip().lower()
    status = meaning.statuses.get(word, ENDINGS.get(small, small))
    if status not in STATUSES:
        raise ResultsError(
            f"mapping: status {word!r} has no translation: statuses: {{{word}: STATUS}}, where STATUS is one "
            f"of {', '.join(STATUSES)}."
        )
    return status


def _by_its_rows(
    status: str | None, reason: str | None, at: pd.Series[Any], points: pd.Series[Any], furthest: float,
    planned: float, step: str | None, meaning: Mapped,
) -> tuple[str, str | None]:  # fmt: skip
    """What a run came to that is not recorded as failed: it completed if its rows reach the end."""
    name = meaning.analysis.primary
    if points.empty:
        return (
            "stopped",
            f"it has no {name}" + (f" ({reason})" if reason else ", and no reason is on record"),
        )
    reached = at.loc[points.index].max()
    if not np.isfinite(float(points.iloc[-1])):
        return "diverged", f"{name} is {float(points.iloc[-1]):g} at its end"
    if meaning.analysis.at == "last" or step is None:
        return "completed", None
    short = at.max() < planned
    if reached >= furthest and not short:
        return "completed", None
    why = f"{reason}: a scheduler or a rule of its own stopped it" if reason else "no reason on record"
    if short:
        return "stopped", f"ended at {step} {at.max():.12g} of {planned:.12g}, {why}"
    if at.max() >= furthest:
        return "stopped", f"it has no {name} after {step} {reached:.12g} of {furthest:.12g}"
    return "stopped", f"ended at {step} {reached:.12g} of {furthest:.12g}, {why}"


def _attempts(ends: pd.DataFrame) -> pd.DataFrame:
    late = ends["status"].eq("completed")
    for (arm, seed), runs in ends[late].groupby(["arm", "seed"]):
        if len(runs) > 1:
            names = runs["run"] if runs["run"].nunique() == len(runs) else runs["key"]
            raise ResultsError(
                f"arm {arm!r} has {len(runs)} complete runs with seed {seed} ({', '.join(names)}): leave "
                "all but one out, or correct the mapping's arm and seed."
            )
    order = ends.assign(late=late).sort_values("late", kind="stable")
    attempt = order.groupby(["arm", "seed"]).cumcount() + 1
    return ends.assign(attempt=attempt)


def _said_of(ends: pd.DataFrame, step: str | None, planned: pd.Series[Any]) -> list[str]:
    short = ends[(ends["status"] == "stopped") & ends["failure_reason"].str.startswith("ended", na=False)]
    if short.empty:
        return []
    end = max(planned.fillna(0).max(), ends["completed_steps"].max())
    return [
        f"{len(short)} of {len(ends)} runs ended before {step} {end:.12g} and have no endpoint. Where a "
        "scheduler such as ASHA ended them for what they had reached, the others are a selection; where each "
        "run ends by a rule of its own, `analysis.at: last` compares their last evaluations."
    ]
