"""Tables in files: CSV (comma, semicolon or tab; a header or none), parquet, and whole folders of them."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.imports.mapping import Mapped
from analysis.imports.table import COMMA, POINT, Table, table_of
from analysis.plan import ResultsError, unknown

ENDINGS = (".csv", ".tsv", ".parquet", ".pq", ".csv.gz", ".tsv.gz")
"""What the names of tables in a folder end with, in small letters."""
SEPARATORS = ",;\t"


def read_sheets(path: Path, meaning: Mapped) -> Iterator[Table]:
    """The table of one file, or of every CSV and parquet file below a folder."""
    files = (
        sorted(file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS) and file.is_file())
        if path.is_dir()
        else [path]
    )
    for file in files:
        measured = {metric.column for metric in meaning.metrics.values()}
        sheet = read_sheet(file, meaning.header, _named(meaning) | measured)
        cells, lines, remarks = _melted(sheet, meaning, file)
        yield table_of(
            cells.assign(**_settings_beside(file)), file=str(file), run=_name(file, path), key=str(file),
            lines=lines, comma=sheet.comma, mixed=sheet.mixed, remarks=remarks, twice=sheet.twice,
        )  # fmt: skip


def _name(file: Path, given: Path) -> str:
    """A run's name: of a file in a folder its path in there."""
    return str(file.relative_to(given).with_suffix("")) if given.is_dir() else file.stem


def _settings_beside(file: Path) -> dict[str, str]:
    """Lightning's hparams.yaml beside its metrics.csv, as columns hparams/NAME."""
    beside = file.with_name("hparams.yaml")
    if file.name != "metrics.csv" or not beside.is_file():
        return {}
    try:
        values = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # it holds Python objects, which are not read: its settings stay unknown
    settings = values if isinstance(values, dict) else {}
    return {
        f"hparams/{name}": str(value)
        for name, value in settings.items()
        if not isinstance(value, dict | list)
    }


@dataclass(frozen=True)
class Sheet:
    """One file's cells as texts."""

    cells: pd.DataFrame
    lines: list[int]
    """The line of each row; 0 where the file has none."""
    comma: bool = False
    """Numbers may have decimal commas: they do not part the columns."""
    twice: tuple[tuple[str, str, str], ...] = ()
    """(name, file, places) of columns that share a name; none of them is in `cells`."""
    mixed: bool = False
    """Some numbers have decimal or grouping commas, others points."""


def read_sheet(file: Path, header: bool | None = None, wanted: Collection[str] = ()) -> Sheet:
    """One CSV or parquet file; header: whether the first line names the columns, None: it should.

    wanted: columns that the mapping names.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ResultsError(f"{file} cannot be read ({error.strerror}).") from None
    if content.startswith(b"PAR1") or file.suffix == ".parquet":
        return _parquet(file)
    rows, lines, separator = _csv(content, file)
    names = _header(rows, lines, file, header, wanted)
    body, places = (rows, lines) if header is False else (rows[1:], lines[1:])
    if not body:
        raise ResultsError(f"{file} has no rows: leave it out, or restore it.")
    for row, line in zip(body, places, strict=True):
        if len(row) != len(names):
            raise ResultsError(
                f"{file}, line {line}: {len(row)} fields, where line {lines[0]} has {len(names)}: mend or "
                "delete the line that is wrong."
            )
    counts = Counter(name for name in names if name)
    columns = {name: [row[n] or None for row in body] for n, name in enumerate(names) if counts[name] == 1}
    cells = pd.DataFrame(columns, dtype="str", index=range(len(body)))
    comma = separator != ","
    return Sheet(cells, places, comma, _doubles(names, file), comma and _has_both_marks(cells))


def _has_both_marks(cells: pd.DataFrame) -> bool:
    texts = pd.Series(cells.to_numpy(object).ravel(), dtype="str").dropna().drop_duplicates()
    return bool(texts.str.fullmatch(COMMA).any() and texts.str.fullmatch(POINT).any())


def _doubles(names: Sequence[str], file: Path) -> tuple[tuple[str, str, str], ...]:
    """The names that several columns share, with the file and the columns' numbers."""
    places: dict[str, list[str]] = {}
    for n, name in enumerate(names, start=1):
        places.setdefault(name, []).append(str(n))
    several = {name: found for name, found in places.items() if name and len(found) > 1}
    return tuple((name, str(file), f"columns {' and '.join(found)}") for name, found in several.items())


def _csv(content: bytes, file: Path) -> tuple[list[list[str]], list[int], str]:
    """Its rows, their lines and the separator. A last line without an end may be cut, and is refused."""
    text = _decoded(content, file)
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines, before = [], [], 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(cells)
                lines.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise ResultsError(f"{file}, line {reader.line_num}, cannot be read as CSV ({error}).") from None
    if len(rows) > 1 and text[-1] not in '\r\n"':
        raise ResultsError(
            f"{file}: its last line, {lines[-1]}, has no line end, so that its last number may be cut "
            f"({separator.join(rows[-1])[-60:]!r}): end it with a line end if it is whole, else delete it."
        )
    if not rows:
        raise ResultsError(f"{file} has no rows: leave it out, or restore it.")
    return rows, lines, separator


def _decoded(content: bytes, file: Path) -> str:
    try:
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        if plain.startswith(b"PK\x03\x04"):
            raise ValueError("it is a workbook or an archive")
        return plain.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ResultsError(f"{file} is no UTF-8 text ({error}): save it as CSV in UTF-8.") from None


def _header(
    rows: Sequence[Sequence[str]], lines: Sequence[int], file: Path, told: bool | None,
    wanted: Collection[str],
) -> list[str]:  # fmt: skip
    if told is False:
        return [str(n) for n in range(len(rows[0]))]
    numbers = [cell for cell in rows[0] if _is_number(cell)]
    if told is None and numbers and (len(numbers) == len(rows[0]) or not set(wanted) & set(rows[0])):
        raise ResultsError(
            f"{file}, line {lines[0]}, holds numbers ({', '.join(rows[0])[:80]}), so the file seems to have "
            "no header: say `header: false` in the mapping, which calls the columns '0', '1', '2', ..., or "
            "`header: true`."
        )
    return list(rows[0])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(file: Path) -> Sheet:
    try:
        table = pq.ParquetFile(file).read()
        names, columns = table.column_names, table.itercolumns()
        texts = {
            name: column.cast(pa.string()).to_pylist()
            for name, column in zip(names, columns, strict=True)
            if not pa.types.is_nested(column.type) and names.count(name) == 1
        }
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ResultsError(f"{file} cannot be read as parquet ({error}): write it again.") from None
    if not table.num_rows:
        raise ResultsError(f"{file} has no rows: leave it out, or restore it.")
    return Sheet(pd.DataFrame(texts, dtype="str"), [0] * table.num_rows, twice=_doubles(names, file))


def _melted(sheet: Sheet, meaning: Mapped, file: Path) -> tuple[pd.DataFrame, list[int], list[str]]:
    """A wide table, which has a column for every arm, as one with a row for every arm and seed.

    It is one where neither the arm's column nor the metric's is there, and the baseline's name is a column.
    """
    cells, question = sheet.cells, meaning.analysis
    arm = meaning.arm[0].column if len(meaning.arm) == 1 else None
    value = next(iter(meaning.metrics.values())).column if len(meaning.metrics) == 1 else None
    if arm is None or value is None or {arm, value} & set(cells) or question.baseline not in cells:
        return cells, sheet.lines, []
    arms = [name for name in cells if name not in _named(meaning)]
    arms = [question.baseline, *question.treatments] if question.treatments else arms
    for name in arms:
        if name not in cells:
            raise unknown(f"{file}: analysis.treatments: arm", str(name), map(str, cells))
    kept = [name for name in cells if name not in arms]
    rows = cells.melt(id_vars=kept, value_vars=arms, var_name=arm, value_name=value)
    listed = ", ".join(map(str, arms))
    told = f"{file.name} has a column for every arm ({listed}); each cell was taken for one run's {value}."
    return rows, sheet.lines * len(arms), [told]


def _named(meaning: Mapped) -> set[str]:
    """The columns that the mapping names."""
    places = {place.column for place in (*meaning.arm, *meaning.seed) if place.column}
    single = {meaning.step, "step", meaning.run, meaning.wall_s, meaning.status}
    several = {*(meaning.config or []), *meaning.declared, *meaning.recorded.values()}
    return {name for name in places | single | several if name}
