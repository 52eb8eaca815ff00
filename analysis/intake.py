"""Other people's runs as an experiment folder, so that they get the same gates, verdict and report.

What a lab's records do not hold (hashes of data order and weights, configurations) stays unknown, and the
gates say so. Nothing is guessed: a run whose record ends early is not complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.mapping import Mapped, Place, read_mapping
from analysis.names import QUANTITIES
from analysis.plan import Direction, ResultsError, read_object, unknown
from analysis.records import FAILURES, ResultsFolder
from analysis.sources import FILE, REASON, RUN, SOURCES, STATUS, read_source

CONFIG_PREFIX = "config/"


@dataclass(frozen=True)
class _Runs:
    """Their table with arm, seed and run told for every row, and what each run came to."""

    rows: pd.DataFrame
    """Their columns, with arm, seed (int), trial_id, attempt, step_ (float, NaN where none)."""
    ends: pd.DataFrame
    """One row per run: trial_id, attempt, arm, seed, status, failure_reason, completed_steps."""


def import_runs(
    kind: str, paths: Sequence[str | Path], mapping: Any, source: str, out: str | Path | None = None
) -> Path:
    """Write OUT, an experiment folder, from other people's files; imported/NAME when left out.

    kind: csv, tensorboard, wandb-export or ray. mapping: what their columns mean (mapping.Mapped); `source`
    names it in errors. An OUT that an earlier import made is written anew; any other folder with files is
    refused. Raises ResultsError naming file, column and way out.
    """
    if kind not in SOURCES:
        raise unknown("--from", kind, SOURCES)
    meaning = read_mapping(mapping, source)
    folder = ResultsFolder(out or Path("imported") / meaning.name)
    _refuse_foreign(folder)
    files = [Path(path) for path in paths]
    runs = _told_apart(read_source(kind, files), meaning)
    metrics = _metrics(runs, meaning)
    facts = _facts(runs, meaning, kind)
    plan = _plan(runs, meaning)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.plan.write_text(json.dumps(plan, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    facts.to_parquet(folder.runs, index=False)
    metrics.to_parquet(folder.metrics, index=False)
    columns = {name: metric.column for name, metric in meaning.metrics.items()}
    told = {
        "imported_from": kind,
        "files": [str(path) for path in files],
        "mapping": source,
        "metrics": columns,
    }
    folder.provenance.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return folder.path


def _refuse_foreign(folder: ResultsFolder) -> None:
    if not folder.path.exists() or not any(folder.path.iterdir()):
        return
    try:
        ours = "imported_from" in read_object(folder.provenance, "choose another folder")
    except (FileNotFoundError, ResultsError):
        ours = False
    if not ours:
        raise ResultsError(f"--out {folder.path} holds files that no import made: choose another folder.")


def _told_apart(table: pd.DataFrame, meaning: Mapped) -> _Runs:
    """Arm, seed, attempt and step of every row."""
    arm, seed = (_where(table, getattr(meaning, name), name) for name in ("arm", "seed"))
    known = arm.notna() & seed.notna()
    if not known.any():
        raise ResultsError("the mapping finds no row with an arm and a seed: check its `arm` and `seed`.")
    rows = table[known].assign(arm=arm[known], seed=_whole(seed[known], "seed"))
    rows = rows.assign(step_=_numbers(_column(rows, meaning.step, "step"), meaning.step))
    rows = rows.assign(run_=_column(rows, meaning.run, "run").fillna("") if meaning.run else rows[RUN])
    planned = meaning.planned_steps or int(
        rows["step_"].max(skipna=True) if rows["step_"].notna().any() else 0
    )
    ends = _ends(rows, meaning, planned)
    return _Runs(rows.merge(ends[["arm", "seed", "run_", "trial_id", "attempt"]]), ends)


def _where(table: pd.DataFrame, place: Place, name: str) -> pd.Series[Any]:
    if place.column is not None:
        return _column(table, place.column, name)
    texts, pattern = (table[FILE], place.path) if place.path else (table[RUN], place.run)
    assert pattern is not None
    return texts.str.extract(pattern, expand=False)


def _column(table: pd.DataFrame, column: str, name: str) -> pd.Series[Any]:
    if column not in table:
        theirs = [str(found) for found in table.columns if not str(found).startswith("@")]
        raise unknown(f"mapping: {name}: column", column, theirs)
    return table[column]


def _whole(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    numbers = _numbers(column, name)
    if (wrong := column[numbers % 1 != 0]).any():
        raise ResultsError(f"mapping: {name} {wrong.iloc[0]!r} is no whole number.")
    return numbers.astype("int64")


def _numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Texts as floats; missing cells and "nan" are both NaN here."""
    try:
        return pd.Series(column.to_numpy(object, na_value="nan").astype(np.float64), index=column.index)
    except ValueError as error:
        raise ResultsError(f"mapping: column {name!r} holds what is no number ({error}).") from None


def _ends(rows: pd.DataFrame, meaning: Mapped, planned: int) -> pd.DataFrame:
    """How every run ended. Several runs of one arm and seed are its attempts if all but the last failed."""
    found = []
    for place, run in rows.groupby(["arm", "seed", "run_"], sort=False):
        last = run["step_"].max()
        status, reason = _ending(run, meaning, planned)
        steps = 0 if np.isnan(last) else int(last)
        found.append((*place, status, reason, steps))
    columns = ["arm", "seed", "run_", "status", "failure_reason", "completed_steps"]
    ends = pd.DataFrame(found, columns=columns)
    late = ends["status"].eq("completed")
    ends = ends.assign(late=late).sort_values("late", kind="stable", ignore_index=True)
    for (arm, seed), runs in ends[ends["late"]].groupby(["arm", "seed"]):
        if len(runs) > 1:
            raise ResultsError(
                f"arm {arm!r} has {len(runs)} complete runs with seed {seed} ({', '.join(runs['run_'])}): "
                "leave all but one out, or correct the mapping's arm and seed."
            )
    names = [_trial_id(arm, seed) for arm, seed in zip(ends["arm"], ends["seed"], strict=True)]
    attempt = ends.groupby(["arm", "seed"]).cumcount() + 1
    return ends.drop(columns="late").assign(trial_id=names, attempt=attempt)


def _trial_id(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def _ending(run: pd.DataFrame, meaning: Mapped, planned: int) -> tuple[str, str | None]:
    """A run's status: as recorded, else complete where its rows reach the last planned step."""
    told = _last(run, meaning.status) if meaning.status else None
    if told is not None:
        status = meaning.statuses.get(told, told)
        if status not in ("completed", *FAILURES, "preempted", "cancelled"):
            raise unknown(
                f"mapping: status {told!r} has no translation: status", status, ("completed", *FAILURES)
            )
        return status, None if status == "completed" else f"its record says {told}"
    recorded = _last(run, STATUS)
    if recorded is not None and recorded != "completed":
        return recorded, _last(run, REASON) or "its record says so"
    last = run["step_"].max()
    if recorded is None and not last >= planned:
        steps = "no step" if np.isnan(last) else f"step {last:g}"
        return "crashed", f"its record ends at {steps} of {planned}"
    return "completed", None


def _last(run: pd.DataFrame, column: str) -> str | None:
    if column not in run:
        return None
    values = run[column].dropna()
    return None if values.empty else str(values.iloc[-1])


def _metrics(runs: _Runs, meaning: Mapped) -> pd.DataFrame:
    """The long table: a row for every logged value of a mapped metric."""
    parts = []
    for name, metric in meaning.metrics.items():
        column = _column(runs.rows, metric.column, f"metrics.{name}")
        logged = runs.rows[column.notna() & runs.rows["step_"].notna()]
        seconds = _column(logged, meaning.wall_s, "wall_s") if meaning.wall_s else None
        parts.append(
            pd.DataFrame(
                {
                    "trial_id": logged["trial_id"],
                    "attempt": logged["attempt"],
                    "step": _whole(logged["step_"], meaning.step),
                    "wall_s": np.nan if seconds is None else _numbers(seconds, str(meaning.wall_s)),
                    "split": "eval",
                    "metric": name,
                    "value": _numbers(logged[metric.column], metric.column),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
    if len(twice := table[table.duplicated(["trial_id", "attempt", "step", "metric"])]):
        row = twice.iloc[0]
        raise ResultsError(
            f"{row['trial_id']} has two values of {row['metric']} at step {row['step']}: name the column "
            "that tells runs apart (run: COLUMN), or correct the mapping's arm, seed and step."
        )
    return table


def _facts(runs: _Runs, meaning: Mapped, kind: str) -> pd.DataFrame:
    """The table of runs; what their records do not hold is null."""
    empty = dict.fromkeys(("first_nonfinite_step", "planned_steps", "tokens_seen"), np.nan)
    hashes = dict.fromkeys(("config_hash", "data_order_hash", "init_hash", "eval_set_hash"), None)
    table = runs.ends.drop(columns="run_").assign(**empty, **hashes)
    keys = ["trial_id", "attempt"]
    last = runs.rows.groupby(keys, sort=False).last().reindex(pd.MultiIndex.from_frame(table[keys]))
    for name, column in meaning.recorded.items():
        values = _column(last, column, f"recorded.{name}")
        table[name] = values.to_numpy() if name.endswith("hash") else _numbers(values, column).to_numpy()
    for column in _settings(runs.rows, meaning, kind):
        table[f"factor.{column}"] = _column(last, column, "config").to_numpy()
    return table


def _settings(rows: pd.DataFrame, meaning: Mapped, kind: str) -> list[str]:
    if meaning.config is not None or kind != "ray":
        return list(dict.fromkeys([*(meaning.config or []), *meaning.declared]))
    told = {meaning.arm.column, meaning.seed.column}
    return [name for name in map(str, rows.columns) if name.startswith(CONFIG_PREFIX) and name not in told]


def _plan(runs: _Runs, meaning: Mapped) -> dict[str, Any]:
    """The grid of arms and seeds: as the mapping plans it, else as found."""
    arms = list(dict.fromkeys(runs.rows["arm"]))
    question = meaning.analysis
    if question.baseline not in arms:
        raise unknown("mapping: analysis.baseline: arm", question.baseline, arms)
    seeds = meaning.seeds or sorted(set(runs.ends["seed"].tolist()))
    plan = {
        "name": meaning.name,
        "arms": {arm: {} for arm in arms},
        "seeds": [int(seed) for seed in seeds],
        "declared_factors": meaning.declared,
        "cells": [
            {
                "trial_id": _trial_id(arm, seed),
                "arm": arm,
                "seed": int(seed),
                "config_hash": "",
                "factors": {},
            }
            for seed in seeds
            for arm in arms
        ],
        "contrasts": [
            {"treatment": a, "baseline": question.baseline} for a in arms if a != question.baseline
        ],
        "analysis": {
            "baseline": question.baseline,
            "primary": {**_primary(meaning), "margin": question.margin, "sesoi": question.sesoi},
            "secondary": question.secondary,
            "alpha": question.alpha,
        },
        "quantities": {
            name: {"direction": _direction(name, meaning), "unit": metric.unit or "as logged"}
            for name, metric in meaning.metrics.items()
            if name not in QUANTITIES
        },
    }
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": meaning.name, "plan_hash": digest, **plan}


def _primary(meaning: Mapped) -> dict[str, Any]:
    question = meaning.analysis
    return {
        "metric": question.primary,
        "split": "eval",
        "at": question.at,
        "k": question.k,
        "direction": _direction(question.primary, meaning),
    }


def _direction(name: str, meaning: Mapped) -> Direction:
    given = meaning.metrics[name].direction
    if given is None and name not in QUANTITIES:
        raise ResultsError(
            f"mapping: metrics.{name} needs a direction, min or max: {name}: {{column: "
            f"{meaning.metrics[name].column}, direction: min}}."
        )
    return given or QUANTITIES[name].direction
