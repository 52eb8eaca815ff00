"""What Weights & Biases exports as CSV: the table of runs, or a chart over any axis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.imports.mapping import Mapped
from analysis.imports.sheets import Sheet, read_sheet
from analysis.imports.table import Table, table_of
from analysis.plan import ResultsError

BANDS = ("__MIN", "__MAX")
"""A chart has these columns beside each run's: the range of what one drawn point stands for."""


def read_wandb(path: Path, meaning: Mapped) -> Iterator[Table]:
    """A chart's export (an axis, and `RUN - METRIC` for every run), or the table of runs (Name, State,
    ...)."""
    sheet = read_sheet(path)
    names = [*map(str, sheet.cells.columns), *(name for name, _, _ in sheet.twice)]
    if "Name" in names or "name" in names:
        yield _runs(sheet, path)
        return
    charted = {name: found for name in names if (found := _charted(name, meaning))}
    axes = [name for name in names if name not in charted]
    if not charted or len(axes) != 1:
        raise ResultsError(
            f"{path} is no W&B export: it has neither a column Name (the table of runs) nor one axis with "
            "columns "
            "'RUN - METRIC' (a chart). Use --from csv for other tables."
        )
    for name, file, places in sheet.twice:
        if name in charted:
            run, metric = charted[name]
            raise ResultsError(
                f"{file}: {places} are both {name!r}: two runs are called {run}, and nothing tells their "
                f"{metric} "
                "apart. Rename one in W&B and export again, or export the table of runs."
            )
    for name, (run, metric) in charted.items():
        if not name.endswith(BANDS):
            yield _chart(sheet, axes[0], name, run, metric, path)


def _charted(name: str, meaning: Mapped) -> tuple[str, str] | None:
    """Run and metric of a chart's column; a mapped metric's own name may hold " - "."""
    bare = name.removesuffix(BANDS[0]).removesuffix(BANDS[1])
    for metric in meaning.metrics.values():
        if bare.endswith(end := f" - {metric.column}") and len(bare) > len(end):
            return bare.removesuffix(end), metric.column
    found = re.fullmatch(r"(.+) - (.+)", bare)
    return (found[1], found[2]) if found else None


def _chart(sheet: Sheet, axis: str, column: str, run: str, metric: str, path: Path) -> Table:
    """The points of one run."""
    there = sheet.cells[column].notna()
    points = sheet.cells.loc[there, [axis, column]].rename(columns={column: metric})
    lines = [line for line, kept in zip(sheet.lines, there, strict=True) if kept]
    drawn = [sheet.cells.loc[there, column + band] for band in BANDS if column + band in sheet.cells]
    remarks = []
    if len(drawn) == 2 and (drawn[0] != drawn[1]).any():
        remarks.append(
            f"{path.name}: points of {run} stand for several values each ({metric}{BANDS[0]} and "
            f"{BANDS[1]} differ): W&B averaged what it drew."
        )
    return table_of(
        points, file=str(path), run=run, step=axis, lines=lines, comma=sheet.comma, mixed=sheet.mixed,
        remarks=remarks,
    )  # fmt: skip


def _runs(sheet: Sheet, path: Path) -> Table:
    """Each row is a run, also where two have one name."""
    cells = sheet.cells
    name = "Name" if "Name" in cells else "name"
    states = cells["State"] if "State" in cells else pd.Series(None, index=cells.index, dtype=object)
    said = ("W&B says " + states.str.lower()).where(states.notna(), None)
    names = cells[name].fillna("without a name")
    keys = [f"{path}:{line}" for line in sheet.lines]
    return table_of(
        cells, file=str(path), run=names, key=keys, step="_step", lines=sheet.lines, comma=sheet.comma,
        mixed=sheet.mixed, status=states, reason=said, twice=sheet.twice,
    )  # fmt: skip
