"""Other people's runs as an experiment folder, so that they get the same gates, verdict and report.

What a lab's records do not hold (hashes of data order and weights, configurations) stays unknown, and the
gates say so. Nothing is guessed: a run whose record ends early is not complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.imports.mapping import Mapped, read_mapping
from analysis.imports.ray_tune import CONFIG
from analysis.imports.runs import Runs, runs_of
from analysis.imports.sources import SOURCES, read_source
from analysis.imports.values import precision_of, values_of
from analysis.names import QUANTITIES
from analysis.plan import Direction, ResultsError, read_object, unknown
from analysis.records import ResultsFolder

SPELLED = 30
"""Digits of a setting that is a number; longer ones are names, such as a commit 7e12345."""


def import_runs(
    kind: str, paths: Sequence[str | Path], mapping: Any, source: str, out: str | Path | None = None
) -> Path:
    """Write OUT, an experiment folder, from other people's files; imported/NAME when left out.

    kind: one of sources.SOURCES. mapping: what their columns mean (mapping.Mapped); `source` names it in
    errors. An OUT that an earlier import made is written anew; any other folder with files is refused. Raises
    ResultsError naming file, column and way out.
    """
    if kind not in SOURCES:
        raise unknown("--from", kind, SOURCES)
    meaning = read_mapping(mapping, source)
    files = [Path(path) for path in paths]
    name = meaning.name or _name_of(files)
    folder = ResultsFolder(out or Path("imported") / name)
    _refuse_foreign(folder)
    runs = runs_of(read_source(kind, files, meaning), meaning)
    values, remarks = values_of(runs, meaning, meaning.repeated or ("last" if kind == "ray" else "refuse"))
    facts = _facts(runs, meaning, kind)
    plan = _plan(runs, values, [*runs.remarks, *remarks], meaning, kind, name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.plan.write_text(json.dumps(plan, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    facts.to_parquet(folder.runs, index=False)
    _metrics(runs, values).to_parquet(folder.metrics, index=False)
    columns = {metric: given.column for metric, given in meaning.metrics.items()}
    sources = [str(path) for path in files]
    told = {"imported_from": kind, "files": sources, "mapping": source, "metrics": columns}
    folder.provenance.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return folder.path


def _name_of(files: Sequence[Path]) -> str:
    """The first file's name, as far as it makes a name of an experiment."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", files[0].resolve().stem).lstrip("._-")
    return plain[:64] or "runs"


def _refuse_foreign(folder: ResultsFolder) -> None:
    if not folder.path.exists() or not any(folder.path.iterdir()):
        return
    try:
        ours = "imported_from" in read_object(folder.provenance, "choose another folder")
    except (FileNotFoundError, ResultsError):
        ours = False
    if not ours:
        raise ResultsError(f"--out {folder.path} holds files that no import made: choose another folder.")


def _trial_id(arm: str, seed: int, runs: Runs) -> str:
    return f"{arm}-seed{runs.seed_name(seed)}"


def _names(runs: Runs) -> pd.DataFrame:
    """trial_id and attempt of every run."""
    pairs = zip(runs.ends["arm"], runs.ends["seed"], strict=True)
    names = [_trial_id(arm, seed, runs) for arm, seed in pairs]
    return pd.DataFrame({"trial_id": names, "attempt": runs.ends["attempt"]}, index=runs.ends.index)


def _metrics(runs: Runs, values: pd.DataFrame) -> pd.DataFrame:
    """The long table: a row for every logged value of a mapped metric."""
    table = values.join(_names(runs), on="trial").assign(split="eval")
    return table[["trial_id", "attempt", "step", "wall_s", "split", "metric", "value"]]


def _facts(runs: Runs, meaning: Mapped, kind: str) -> pd.DataFrame:
    """The table of runs; what their records do not hold is null."""
    empty = dict.fromkeys(("first_nonfinite_step", "planned_steps", "tokens_seen"), np.nan)
    hashes = dict.fromkeys(("config_hash", "data_order_hash", "init_hash", "eval_set_hash"), None)
    columns = ["arm", "seed", "status", "failure_reason", "completed_steps"]
    table = _names(runs).assign(**runs.ends[columns], **empty, **hashes)
    for name, column in meaning.recorded.items():
        table[name] = _last(runs, column, f"recorded.{name}", numbers=not name.endswith("hash"))
    for column in _settings(runs, meaning, kind):
        table[f"factor.{column}"] = _last(runs, column, "config", numbers=False)
    return table.sort_values("attempt", kind="stable")


def _last(runs: Runs, column: str, asked_by: str, *, numbers: bool) -> Any:
    """What each run's last row with a value has there."""
    there = runs.table.numbers(column, asked_by) if numbers else runs.table.column(column, asked_by).dropna()
    last = there.groupby(runs.rows["trial"].loc[there.index]).last().reindex(runs.ends.index)
    if numbers:
        return last.to_numpy()
    return last.astype(object).map(_level, na_action="ignore").where(last.notna(), None).to_numpy()


def _level(text: str) -> str:
    """A setting with numbers in one spelling: 1e-4 is 0.0001, and 0.10 is 0.1."""
    try:
        number = Decimal(text).normalize()
    except InvalidOperation:
        return text
    return f"{number:f}" if number.is_finite() and abs(number.adjusted()) < SPELLED else text


def _settings(runs: Runs, meaning: Mapped, kind: str) -> list[str]:
    if meaning.config is not None or kind != "ray":
        return list(dict.fromkeys([*(meaning.config or []), *meaning.declared]))
    told = {place.column for place in (*meaning.arm, *meaning.seed)}
    return [
        name for name in map(str, runs.table.cells.columns) if name.startswith(CONFIG) and name not in told
    ]


def _plan(
    runs: Runs, values: pd.DataFrame, remarks: Sequence[str], meaning: Mapped, kind: str, name: str
) -> dict[str, Any]:
    """The grid of arms and seeds: as the mapping plans it, else as found."""
    arms, question = list(dict.fromkeys(runs.ends["arm"])), meaning.analysis
    baseline = _spelled("baseline", question.baseline, arms)
    treatments = [_spelled("treatments", arm, arms) for arm in question.treatments or arms]
    if arms == [baseline]:
        raise ResultsError(f"all runs are of arm {baseline!r}: name the files of another arm, too.")
    plan = {
        "name": name,
        "arms": {arm: {} for arm in arms},
        "seeds": list(runs.seeds),
        "seed_names": {str(seed): called for seed, called in runs.seed_names.items()},
        "declared_factors": meaning.declared,
        "cells": [
            {
                "trial_id": _trial_id(arm, seed, runs),
                "arm": arm,
                "seed": seed,
                "config_hash": "",
                "factors": {},
            }
            for seed in runs.seeds
            for arm in arms
        ],
        "contrasts": [{"treatment": arm, "baseline": baseline} for arm in treatments if arm != baseline],
        "analysis": {
            "baseline": baseline,
            "primary": {**_primary(meaning), "margin": question.margin, "sesoi": question.sesoi},
            "secondary": question.secondary,
            "alpha": question.alpha,
        },
        "quantities": {
            metric: {"direction": _direction(metric, meaning), "unit": given.unit or "as logged"}
            for metric, given in meaning.metrics.items()
            if metric not in QUANTITIES
        },
        "precision": {
            str(metric): known
            for metric, logged in values.groupby("metric", sort=False)["value"]
            if (known := precision_of(logged)) is not None
        },
        "imported": {
            "source": kind,
            "runs": len(runs.ends),
            "ignored": list(runs.ignored),
            "planned": bool(meaning.seeds) or bool(runs.table.known["listed"].all()),
            "remarks": list(dict.fromkeys(remarks)),
            "step": runs.step,
        },
    }
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": name, "plan_hash": digest, **plan}


def _spelled(asked_by: str, asked: str, arms: Sequence[str]) -> str:
    """An arm as the records have it: Ray writes true and null, where YAML gives True and None."""
    json = {"True": "true", "False": "false", "None": "null"}.get(asked, asked)
    for arm in (asked, json):
        if arm in arms:
            return arm
    raise unknown(f"mapping: analysis.{asked_by}: arm", asked, arms)


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
    if name not in meaning.metrics:
        return "min"  # steps_to_N
    given = meaning.metrics[name].direction
    if given is None and name not in QUANTITIES:
        raise ResultsError(
            f"mapping: metrics.{name} needs a direction, min or max: {name}: {{column: "
            f"{meaning.metrics[name].column}, direction: min}}."
        )
    return given or QUANTITIES[name].direction
