"""Folders of Ray Tune: what every trial reported, and what the experiment's state says became of it.

Nothing is unpickled. A trial's rows are those of result.json, else of progress.csv; where neither is
there, one
row with its configuration.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from reprlib import repr as short
from typing import Any

import pandas as pd
from pydantic_core import from_json

from analysis.imports.mapping import Mapped
from analysis.imports.table import Table, table_of
from analysis.plan import ResultsError, read_object

CONFIG = "config/"
STATES = "experiment_state-*.json"
RESTORE = "restore it, or leave its trial out"


def read_ray(path: Path, meaning: Mapped) -> Iterator[Table]:
    """Every trial below a folder, and those that the experiment's state has and that left no folder."""
    given = path.parent if path.is_file() else path
    folders = sorted(
        {file.parent for name in ("params.json", "result.json", "progress.csv") for file in given.rglob(name)}
    )
    for folder in folders:
        table = _trial(folder)
        _refuse_copied(table, folder, meaning)
        yield table
    found = set(folders)
    folders = [folder for folder in folders if not found & set(folder.parents)]  # no checkpoint of a trial
    seen = {folder.name for folder in folders}
    for states in sorted({state.parent for state in given.rglob(STATES)}):
        for name, trial in _states(states).items():
            if name not in seen:
                yield _of(
                    pd.DataFrame([_texts({"config": trial["config"]})], dtype="str"), states / name, trial, []
                )


def _refuse_copied(table: Table, folder: Path, meaning: Mapped) -> None:
    """A trial that took over another's settings on its way, as PBT's do, is no run of one arm and seed."""
    asked = [place.column or "" for place in (*meaning.arm, *meaning.seed)]
    for name in (name for name in asked if name.startswith(CONFIG) and name in table.cells):
        found = list(table.cells[name].dropna().unique())
        if len(found) > 1:
            raise ResultsError(
                f"{folder}: {name} goes from {found[0]} to {found[1]} within the trial, as under PBT, where "
                "trials copy one another and are no repetitions to compare: leave the trial out."
            )


def _trial(folder: Path) -> Table:
    trial = _states(folder.parent).get(folder.name)
    rows, remarks = _reported(folder, trial["config"] if trial else {})
    cells = pd.DataFrame([_texts(row) for row in rows], dtype="str")
    return _of(cells, folder, trial, remarks)


def _of(cells: pd.DataFrame, folder: Path, trial: Mapping[str, Any] | None, remarks: list[str]) -> Table:
    status, reason = _ended(cells, folder, trial)
    return table_of(
        cells, file=str(folder), run=folder.name, key=str(folder), step="training_iteration", status=status,
        reason=reason, listed=trial is not None, in_order=True, remarks=remarks,
    )  # fmt: skip


def _ended(
    cells: pd.DataFrame, folder: Path, trial: Mapping[str, Any] | None
) -> tuple[str | None, str | None]:
    """Its status by the state; without one, what its own files tell."""
    error = _last_line(folder / "error.txt")
    if trial is not None:
        return trial["status"].lower(), error if trial["status"] == "ERROR" else f"Ray says {trial['status']}"
    if error is not None:
        return "error", error
    done = "done" in cells and str(cells["done"].iloc[-1]).lower() == "true"
    return ("terminated", "Ray says done") if done else (None, None)


@lru_cache(maxsize=8)
def _states(folder: Path) -> dict[str, dict[str, Any]]:
    """Trial folder's name -> status and config, by the newest state of the experiment; empty without one."""
    found = sorted(folder.glob(STATES))
    if not found:
        return {}
    kept: dict[str, dict[str, Any]] = {}
    state = read_object(found[-1], "restore it, or remove it", finite=False)
    for number, pair in enumerate(state.get("trial_data") or state.get("checkpoints") or []):
        try:
            told = pair if isinstance(pair, str) else pair[0]  # Ray before 2.5 kept no pairs
            trial = from_json(told) if isinstance(told, str) else told
            name = trial.get("relative_logdir") or trial.get("trial_id") or f"trial {number}"
            kept[Path(name).name] = {
                "status": str(trial["status"]),
                "config": dict(trial.get("config") or {}),
            }
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ResultsError(
                f"{found[-1]}: trial {number} cannot be read ({error}): remove the file."
            ) from None
    return kept


def _reported(folder: Path, config: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The trial's rows, nested fields joined by '/', and what is to be told of them."""
    params = _params(folder) or _flat({"config": config})
    rows, remarks = _lines_of_json(folder / "result.json")
    if not rows:
        rows, remarks = _progress(folder / "progress.csv")
        rows = [params | row for row in rows]
    return rows or [params], remarks


def _params(folder: Path) -> dict[str, Any]:
    try:
        return _flat({"config": read_object(folder / "params.json", RESTORE, finite=False)})
    except FileNotFoundError:
        return {}


def _lines_of_json(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    lines = _lines(file)
    for number, line in enumerate(lines, start=1):
        try:
            row = from_json(line)
            if not isinstance(row, dict):
                raise ValueError(f"no object {{...}}, but {short(row)}")
        except ValueError as error:
            if number == len(lines):
                return rows, [f"{file.parent.name}: the last line of result.json is cut and was left out."]
            raise ResultsError(f"{file}: line {number} is no JSON row ({error}).") from None
        rows.append(_flat(row))
    return rows, []


def _progress(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """progress.csv, where result.json is gone: the same rows, the last of them unless its line is cut."""
    text = "\n".join(_lines(file))
    if not text:
        return [], []
    whole = file.read_bytes().endswith(b"\n")
    rows = list(csv.DictReader(io.StringIO(text)))
    told = [] if whole else [f"{file.parent.name}: the last line of progress.csv is cut and was left out."]
    return [dict(row) for row in (rows if whole else rows[:-1])], told


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _texts(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Ray's JSON as cells: a NaN of numpy or torch is its text "null"; None is no value, but a setting."""
    return {name: _text(value, name.startswith(CONFIG)) for name, value in _flat(row).items()}


def _text(value: Any, setting: bool) -> str | None:
    if isinstance(value, str):
        return "nan" if value == "null" and not setting else value or None
    return None if value is None and not setting else json.dumps(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _last_line(path: Path) -> str | None:
    lines = [line for line in _lines(path) if line.strip()]
    return lines[-1].strip()[:500] if lines else None
