"""Records of runs that kvtune did not make, as one table of texts: CSV, TensorBoard, W&B exports, Ray Tune.

One row per run and step, the columns as their authors named them. A cell without a value is missing; a logged
NaN is the text "nan", for a diverged run must not look like one that did not log. Three columns are added:
`@file` (as given), `@run` (the run's own name) and, where the source records it, `@status` with `@reason`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import pandas as pd
from pydantic_core import from_json

from analysis.plan import ResultsError, read_object

Table = pd.DataFrame
FILE, RUN, STATUS, REASON = "@file", "@run", "@status", "@reason"
ENDINGS = {
    "finished": "completed",
    "crashed": "crashed",
    "failed": "crashed",
    "killed": "cancelled",
    "preempted": "preempted",
    "preempting": "preempted",
}
"""W&B's State -> status; a run that is still running has none."""
HISTORY_COLUMN = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<band>__MIN|__MAX)?")
"""A column of a chart that W&B exports: the run's name, the metric, and its band."""


def read_source(kind: str, paths: Sequence[Path]) -> Table:
    """All files of one kind in one table; ResultsError names the file that cannot be read."""
    for path in paths:
        if not path.exists():
            raise ResultsError(f"--from {kind}: {path} is not there: name files or folders that are.")
    parts = [part for path in paths for part in SOURCES[kind](path)]
    if not parts:
        raise ResultsError(f"--from {kind}: {', '.join(map(str, paths))} holds no run.")
    return pd.concat(parts, ignore_index=True)


def _csv(path: Path) -> Iterator[Table]:
    yield _texts(path).assign(**{FILE: str(path), RUN: path.stem})


def _texts(path: Path) -> Table:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read as CSV ({_first_line(error)}).") from None
    if table.empty:
        raise ResultsError(f"{path} has no rows.")
    return table


def _wandb(path: Path) -> Iterator[Table]:
    """A chart's export (Step, and `RUN - METRIC` for every run), or the runs table (Name, State, columns)."""
    table = _texts(path)
    charted = {name: match for name in map(str, table) if (match := HISTORY_COLUMN.fullmatch(name))}
    if "Step" in table and charted:
        yield from (_chart(table, match, path) for match in charted.values() if match["band"] is None)
        return
    names = "Name" if "Name" in table else "name"
    if names not in table:
        raise ResultsError(
            f"{path} is no W&B export: it has neither a column Name (the runs table) nor columns "
            "'RUN - METRIC' beside Step (a chart). Use --from csv for other tables."
        )
    told: dict[str, Any] = {FILE: str(path), RUN: table[names]}
    if "State" in table:
        told[STATUS] = table["State"].str.lower().map(ENDINGS)
    yield table.assign(**told)


def _chart(table: Table, column: re.Match[str], path: Path) -> Table:
    """The points of one run: Step and the metric."""
    points = table.loc[table[column[0]].notna(), ["Step", column[0]]]
    return points.rename(columns={column[0]: column["metric"]}).assign(
        **{FILE: str(path), RUN: column["run"]}
    )


def _ray(path: Path) -> Iterator[Table]:
    """Trials of Ray Tune: result.json (a line each) and params.json; nothing is unpickled."""
    folders = [path.parent] if path.is_file() else sorted({file.parent for file in path.rglob("params.json")})
    for folder in folders:
        rows = [{name: _text(value) for name, value in row.items()} for row in _ray_rows(folder)]
        reason = _last_line(folder / "error.txt")
        ending = {STATUS: "crashed", REASON: reason} if reason else {}
        yield pd.DataFrame(rows, dtype="str").assign(**{FILE: str(path), RUN: folder.name, **ending})


def _ray_rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Its reported rows, nested fields joined by '/'; one row of its configuration where it reported none."""
    file, rows = folder / "result.json", 0
    lines = _lines(file)
    for number, line in enumerate(lines, start=1):
        try:
            row = from_json(line)
            if not isinstance(row, dict):
                raise ValueError(f"no object {{...}}, but {short(row)}")
        except ValueError as error:
            if number == len(lines):
                break  # the torn last line of a killed trial
            raise ResultsError(f"{file}: line {number} is no JSON row ({error}).") from None
        rows += 1
        yield _flat(row)
    if not rows:
        params = read_object(folder / "params.json", "restore it, or leave its trial out", finite=False)
        yield _flat({"config": params})


def _tensorboard(path: Path) -> Iterator[Table]:
    """Scalars of every folder with event files; the tags are the columns."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise ResultsError(
            "--from tensorboard needs a package that is not here: pip install tensorboard."
        ) from None
    files = [path] if path.is_file() else path.rglob("*tfevents*")
    for place in sorted({str(file) if path.is_file() else str(file.parent) for file in files}):
        events = EventAccumulator(place, size_guidance={"scalars": 0})
        events.Reload()
        rows: dict[int, dict[str, str]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                row = rows.setdefault(event.step, {"step": str(event.step)})
                row[tag], row["wall_time"] = repr(event.value), repr(event.wall_time)
        name = Path(place).parent.name if path.is_file() else Path(place).name
        yield pd.DataFrame(list(rows.values()), dtype="str").assign(**{FILE: place, RUN: name})


SOURCES: dict[str, Callable[[Path], Iterator[Table]]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb-export": _wandb,
    "ray": _ray,
}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _last_line(path: Path) -> str | None:
    lines = [line for line in _lines(path) if line.strip()]
    return lines[-1].strip()[:500] if lines else None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
