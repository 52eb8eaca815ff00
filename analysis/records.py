"""The files of one experiment: where they lie, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.names import level_text
from analysis.plan import Plan, ResultsError, read_object, read_plan, unknown
from analysis.ragged import curves_of

__all__ = ["Experiment", "ResultsError", "ResultsFolder", "load"]

FAILURES = ("diverged", "crashed", "oom", "timeout", "stopped")
"""A trial that ends so is an outcome: counted, tested, never replaced by a fresh seed. stopped: an imported
run that ended before the others, for no reason on record or by a scheduler's choice."""
ADMINISTRATIVE = ("preempted", "cancelled", "not_run", "running")
"""A trial lost for reasons that have nothing to do with its arm: run the same seed again. running: an
imported
run that has not ended."""
STATUSES = ("completed", *FAILURES, *ADMINISTRATIVE)

RUN_COLUMNS = (
    "trial_id", "attempt", "arm", "seed", "status", "failure_reason", "first_nonfinite_step",
    "planned_steps", "completed_steps", "tokens_seen", "config_hash", "data_order_hash", "init_hash",
    "eval_set_hash",
)  # fmt: skip
METRIC_COLUMNS = ("trial_id", "attempt", "step", "wall_s", "split", "metric", "value")
CATEGORIES = ("trial_id", "split", "metric")
"""Columns of the metrics that hold few texts many times."""
ITEM_COLUMNS = ("trial_id", "item_id", "correct")


class ResultsFolder:
    """STORAGE/NAME: owns the name of every file that belongs to an experiment as a whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def experiment_yaml(self) -> Path:
        """The experiment file as resolved."""
        return self.path / "experiment.yaml"

    @property
    def plan(self) -> Path:
        """Arms, seeds, cells, contrasts and analysis, written before any trial."""
        return self.path / "plan.json"

    @property
    def provenance(self) -> Path:
        """Code revision, versions, host and devices."""
        return self.path / "provenance.json"

    @property
    def trials(self) -> Path:
        """One folder per trial."""
        return self.path / "trials"

    @property
    def runs(self) -> Path:
        """Table: one row per attempt."""
        return self.path / "runs.parquet"

    @property
    def metrics(self) -> Path:
        """Table, long: one row per trial, step, split and metric."""
        return self.path / "metrics.parquet"

    @property
    def items(self) -> Path:
        """Table: one row per trial and held-out item."""
        return self.path / "items.parquet"

    @property
    def report(self) -> Path:
        """What `kvtune report` writes."""
        return self.path / "report"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment as read from its folder."""

    folder: ResultsFolder
    plan: Plan
    runs: pd.DataFrame
    """One row per attempt, unique by (trial_id, attempt); factor columns are prefixed `factor.`."""
    metrics: pd.DataFrame
    """Long: trial_id, attempt, step, wall_s [s], split, metric, value; NaN and Inf as reported. Texts are
    categories: group by them with observed=True."""
    items: pd.DataFrame | None
    """trial_id, item_id, correct; None where no per-item results were kept."""
    provenance: dict[str, Any]
    """provenance.json; empty where there is none."""
    _curves: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    def curves(self, metric: str, split: str) -> pd.DataFrame:
        """One metric's rows as ragged.curves_of finds them, looked for once."""
        if (metric, split) not in self._curves:
            self._curves[metric, split] = curves_of(self.metrics, metric, split)
        return self._curves[metric, split]


def load(folder: str | os.PathLike[str]) -> Experiment:
    """Reads plan and tables of an experiment folder and checks that they can be used.

    Raises ResultsError naming file, field and way out. What the trials did wrong is no error here: that is
    for the validity gates.
    """
    files = ResultsFolder(folder)
    if not files.path.is_dir():
        raise ResultsError(f"No folder {files.path}: give the folder that `kvtune run` wrote (STORAGE/NAME).")
    return Experiment(
        folder=files,
        plan=read_plan(files.plan),
        runs=_read_runs(files.runs),
        metrics=_read_metrics(files.metrics),
        items=_read_table(files.items, ITEM_COLUMNS) if files.items.exists() else None,
        provenance=_read_provenance(files.provenance),
    )


def _read_table(
    path: Path, needed: Sequence[str], columns: Sequence[str] | None = None, names: Sequence[str] = ()
) -> pd.DataFrame:
    """The file's table, which has the needed columns; of `columns`, if given, those that are there.

    names: columns that hold few texts many times, and become categories.
    """
    try:
        there = pq.read_schema(path).names
        missing = [column for column in needed if column not in there]
        if not missing:
            wanted = None if columns is None else [column for column in columns if column in there]
            table = pq.read_table(path, columns=wanted, read_dictionary=list(names), partitioning=None)
            # Without blocks, and with every column let go once it is converted, the largest is held once.
            frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
            return frame
    except FileNotFoundError:
        raise ResultsError(
            f"{path} is missing: `kvtune run` writes it when it collects the trials; run it again."
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ResultsError(f"{path} cannot be read as parquet ({error}): run again to collect it.") from error
    raise ResultsError(f"{path} lacks the columns {', '.join(missing)}: was it written by another version?")


def _read_runs(path: Path) -> pd.DataFrame:
    table = _read_table(path, RUN_COLUMNS)
    table = table.assign(
        seed=_whole_numbers(table["seed"], path),
        attempt=_whole_numbers(table["attempt"].fillna(0), path),
        **{name: _levels(table[name]) for name in table.columns if name.startswith("factor.")},
    ).drop_duplicates(ignore_index=True)
    for status in sorted(set(table["status"]) - set(STATUSES), key=str):
        raise unknown(f"{path}: status", str(status), STATUSES)
    twice = table[table.duplicated(["trial_id", "attempt"])]
    if len(twice):
        row = twice.iloc[0]
        raise ResultsError(
            f"{path} has two different rows for attempt {row['attempt']} of {row['trial_id']}: collect again."
        )
    return table


def _levels(column: pd.Series[Any]) -> pd.Series[Any]:
    """A factor's values as people read them; they are few."""
    found = {told: level_text(told) for told in column.dropna().unique() if isinstance(told, str)}
    return column.map(lambda told: found.get(told, told) if isinstance(told, str) else told)


def _read_metrics(path: Path) -> pd.DataFrame:
    table = _read_table(path, METRIC_COLUMNS, columns=[*METRIC_COLUMNS, "tokens"], names=CATEGORIES)
    return table.assign(
        step=_steps(table["step"], path),
        attempt=_whole_numbers(table["attempt"], path),
        wall_s=pd.to_numeric(table["wall_s"], errors="coerce"),
        value=pd.to_numeric(table["value"], errors="coerce").astype("float64"),
        **{name: _in_alphabetical_categories(table[name]) for name in CATEGORIES},
    )


def _in_alphabetical_categories(column: pd.Series[Any]) -> pd.Series[Any]:
    """Texts as categories in an order that does not depend on the rows' order."""
    column = column.astype("category")
    return column.cat.set_categories(sorted(column.cat.categories))


def _steps(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    """Whole numbers; imported ones may be fractions of an epoch."""
    return column if column.dtype.kind == "f" and np.isfinite(column).all() else _whole_numbers(column, path)


def _whole_numbers(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    if column.dtype.kind == "i":
        return column.astype("int64")
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column[numbers.isna() | (numbers % 1 != 0)]
    if len(wrong):
        raise ResultsError(
            f"{path}: column {column.name!r} holds {wrong.iloc[0]!r}, which is no whole number."
        )
    return numbers.astype("int64")


def _read_provenance(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, "remove it, or run again")
    except FileNotFoundError:
        return {}
