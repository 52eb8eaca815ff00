"""The one reader of JSON files in trainables and orchestrator: what cannot be used is one error and no trap.

A file is bounded in size, its content in depth and in digits, and a pipe or a device is not waited for. Of a
name given twice the last counts. analysis/plan.py has the analysis's own, for neither room imports the other.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field
from pydantic_core import ValidationError, from_json

from trainables.config import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SMALL, LARGE = 2**24, 2**30
"""Most bytes of a file about one thing (16 MiB), and of one with a part for each row or trial (1 GiB)."""
WAY_OUT = "restore it from a copy, or delete it"
Whole = Annotated[int, Field(ge=0, lt=2**63)]
"""A count that every table can hold."""
T = TypeVar("T")


class CorruptFile(InputError):
    """A file that cannot be used: which one, what is wrong with it, and the way out."""

    def __init__(self, path: Path, wrong: str, way_out: str = WAY_OUT) -> None:
        super().__init__(path, wrong, way_out)  # all three, so that it can be sent between processes
        self.brief = f"{path.name} {wrong}"
        """Without the folder and the way out, for who knows both."""
        self.way_out = f"{path} {wrong}: {way_out}."

    def __str__(self) -> str:
        return self.way_out


def opened(path: Path) -> BufferedReader:
    """A regular file, open to read. Raises FileNotFoundError, or CorruptFile for anything else that fails."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise CorruptFile(path, f"cannot be read ({_reason(error)})") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise CorruptFile(path, "is no file but a folder, a pipe or a device")
    return os.fdopen(number, "rb")


def content(path: Path, largest: int = SMALL) -> bytes:
    """A file's bytes. Raises FileNotFoundError, or CorruptFile for what is too large or cannot be read."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise CorruptFile(path, f"cannot be read: it has {size:,} bytes, {largest:,} are the most")
        try:
            return file.read(size)
        except OSError as error:
            raise CorruptFile(path, f"cannot be read ({_reason(error)})") from None


def read_object(
    path: Path, kind: TypeAdapter[Any] | None = None, *, largest: int = SMALL, way_out: str = WAY_OUT
) -> dict[str, Any]:
    """The JSON object in a file, of this kind if one is given; it can be written again.

    Raises FileNotFoundError, or CorruptFile that names what is wrong, a field where it is one.
    """
    data = content(path, largest)
    try:
        value = from_json(data)
        json.dumps(value, allow_nan=False)  # 1e400 is read as infinite, which no JSON can hold
    except ValueError as error:
        raise CorruptFile(path, f"cannot be read as JSON ({_reason(error)})", way_out) from None
    if not isinstance(value, dict):
        raise CorruptFile(path, f"cannot be read: it must hold {{...}}, not {short(value)}", way_out)
    try:
        return {**kind.validate_python(value)} if kind else value
    except ValidationError as error:
        raise CorruptFile(path, f"cannot be read: {problem_of(error)}", way_out) from None


def read_lines(path: Path, kind: TypeAdapter[T]) -> Iterator[T]:
    """The lines of a file, each of this kind; none where it is not there.

    A last line that lacks its end is left out where it is torn. Raises CorruptFile for any other.
    """
    try:
        *lines, last = content(path, LARGE).split(b"\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, start=1):
        try:
            yield kind.validate_json(line)
        except ValidationError as error:
            raise CorruptFile(path, f"cannot be read: line {number}: {problem_of(error)}") from None
    with suppress(ValidationError):
        yield kind.validate_json(last)


def problem_of(error: ValidationError) -> str:
    """The first finding in a few words: which field, what it must be, what was given."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where} is missing"
    rule = first["msg"].replace("Input should", "must")
    return f"{where} {rule}, got {short(first['input'])}".strip()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
