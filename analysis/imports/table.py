"""Other people's records as one table of texts; what is known of them stands beside it, never in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.plan import ResultsError, unknown

MISSING = frozenset({
    "", "na", "n/a", "n.a.", "<na>", "#n/a", "#na", "none", "null", "nil", "-", "--", "–", "—", ".", "?",
    "missing", "nat",
})  # fmt: skip
"""Words for a cell without a value, in small letters. "nan" is a value: a logged NaN."""
TENSOR = re.compile(
    r"(?:tensor|array|np\.float\d+)\(\[*\s*([^\s\[\],()]+)\s*\]*(?:,[^()]*)?\)", re.IGNORECASE
)
"""How PyTorch and numpy print a number."""
COMMA = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+(?:[eE][+-]?\d+)?")
POINT = re.compile(r"[+-]?\d+\.\d+(?:[eE][+-]?\d+)?")
"""1,5 or 1.234,5; and 1.5."""
EITHER = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+")
"""1.234 or 1,234, which are thousands or fractions: nobody can say in a file that has both marks."""


@dataclass(frozen=True)
class Table:
    """Rows of a source: cells named as their authors named them, and what the source knows of each row."""

    cells: pd.DataFrame
    """Texts; a cell without a value is missing, a logged NaN is the text "nan"."""
    known: pd.DataFrame
    """The same rows: file, line (0: none), run (its name), key (what makes it one run), status and reason
    (missing where not recorded), planned (its last planned step, or NaN), part (the file that wrote the row),
    comma (its numbers may have decimal commas), mixed (its file has both decimal marks),
    listed (a list of all planned runs has its run)."""
    step: str
    """The column of steps where the mapping names none."""
    in_order: bool = False
    """The rows stand as they were written, so that a step that goes back was computed again."""
    remarks: tuple[str, ...] = ()
    """What a reader should know of how the records were read."""
    twice: tuple[tuple[str, str, str], ...] = ()
    """(column, file, places) where a file has several columns of one name: nobody can say which is meant."""

    def column(self, name: str, asked_by: str) -> pd.Series[Any]:
        """One column as written. ResultsError names the mapping's field and the columns that there are."""
        for column, file, places in self.twice:
            if column == name:
                raise ResultsError(
                    f"{file}: {places} are all called {name!r} ({asked_by}): rename all but one."
                )
        if name not in self.cells:
            raise unknown(f"mapping: {asked_by}: column", name, map(str, self.cells.columns))
        return self.cells[name]

    def numbers(self, name: str, asked_by: str) -> pd.Series[Any]:
        """One column as float64, of the rows that have a value: a NaN among them was logged as one."""
        column = self.column(name, asked_by)
        bare = column.str.strip()
        bare = bare.where(~bare.str.lower().isin(MISSING))
        there = self._with_points(bare[bare.notna()], name)
        return pd.Series(self._parsed(there, name), index=there.index, dtype=np.float64)

    def _with_points(self, texts: pd.Series[Any], name: str) -> pd.Series[Any]:
        """Decimal commas as points, where the file does not part its columns by commas."""
        known = self.known.loc[texts.index]
        commas = known["comma"].to_numpy(bool) & texts.str.fullmatch(COMMA).to_numpy(bool)
        odd = texts[known["mixed"].to_numpy(bool) & texts.str.fullmatch(EITHER).to_numpy(bool)]
        if len(odd):
            raise ResultsError(
                f"{self.place(odd.index[0])}: {odd.iloc[0]!r} in column {name!r} may be a thousand or a "
                "fraction, as the file has numbers with commas and with points: write all with points."
            )
        if not commas.any():
            return texts
        plain = texts[commas].str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        return texts.where(~commas, plain.reindex(texts.index))

    def _parsed(self, texts: pd.Series[Any], name: str) -> Any:
        try:
            if not texts.str.contains("_", regex=False).any():
                return texts.to_numpy(object).astype(np.float64)
        except ValueError:
            pass  # some are no plain numbers: read below, one by one
        return np.array([self._number(row, text, name) for row, text in texts.items()], dtype=np.float64)

    def _number(self, row: Any, text: str, name: str) -> float:
        printed = TENSOR.fullmatch(text)
        bare = printed[1] if printed else text
        try:
            if "_" in bare:
                raise ValueError(bare)
            return float(bare)
        except ValueError:
            raise ResultsError(
                f"{self.place(row)}: column {name!r} holds {text!r}, which is no number: correct it, or "
                "leave the cell empty where there is no value."
            ) from None

    def place(self, row: Any) -> str:
        """Where a row stands, for errors: its file with line, or its file and run."""
        known = self.known.loc[row]
        if known["line"]:
            return f"{known['file']}, line {known['line']}"
        return str(known["file"])


def table_of(
    cells: pd.DataFrame,
    *,
    file: str | Sequence[str],
    run: str | Sequence[str] | pd.Series[Any],
    key: str | Sequence[str] | None = None,
    step: str = "step",
    lines: Sequence[int] | None = None,
    status: Any = None,
    reason: Any = None,
    planned: float = np.nan,
    part: str | Sequence[str] | None = None,
    comma: bool = False,
    mixed: bool = False,
    listed: bool = False,
    in_order: bool = False,
    remarks: Iterable[str] = (),
    twice: Iterable[tuple[str, str, str]] = (),
) -> Table:
    """A source's rows with what is known of them; without key and part these are run and file."""
    cells = cells.reset_index(drop=True)
    known = pd.DataFrame(index=cells.index)
    given = {
        "file": file,
        "line": 0 if lines is None else lines,
        "run": run,
        "status": status,
        "reason": reason,
    }
    given |= {"key": run if key is None else key, "part": file if part is None else part}
    for name, value in given.items():
        known[name] = value.to_numpy() if isinstance(value, pd.Series) else value
    known["planned"] = float(planned)
    known["comma"], known["mixed"], known["listed"] = comma, mixed, listed
    return Table(cells, known, step, in_order, tuple(remarks), tuple(twice))


def joined(tables: Sequence[Table]) -> Table:
    """All rows one below another; a column that one of them lacks is missing there."""
    cells = pd.concat([table.cells for table in tables], ignore_index=True)
    known = pd.concat([table.known for table in tables], ignore_index=True)
    return Table(
        cells.astype("str") if cells.empty else cells,
        known,
        tables[0].step,
        any(table.in_order for table in tables),
        tuple(dict.fromkeys(remark for table in tables for remark in table.remarks)),
        tuple(double for table in tables for double in table.twice),
    )
