"""GSM8K's rows: a question, and a worked answer with <<48/2=24>> annotations that ends in `#### 72`.

So, or as the four public files of GSM8K-Aug have it: equations apart, as a list `steps` or a text `cot`, and
`answer` the number alone, in JSON lines or one JSON list; or lines of text, `QUESTION||<<a>> <<b>> #### 72`.
The chain of thought is the annotated equations without their brackets, `48/2=24 48+24=72`. Rows without one
(95 of GSM8K's 7,473 training rows, worked in words; 18 of 1,319 of Aug's test rows) are counted and left out:
they are sound, but there is no equation to learn from. A row without question, answer or `####`, or whose
answer is no plain number, is an error, since then the file is not what it is taken for. Question and chain
each end with a line end, where tokenizers split.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from reprlib import repr as short
from typing import Any

from pydantic_core import from_json

from trainables.answers import leading_number
from trainables.config import InputError
from trainables.examples import Example, RowCounts, make_example
from trainables.hub import hub_reachable

MARK = "####"
HUB_NAME = "openai/gsm8k"
FORMAT = (
    '{"question": "...", "answer": "... <<48/2=24>>24 ... #### 72"} or {"question": "...", "steps": '
    '["<<48/2=24>>", ...], "answer": "72"}, the answer one number in digits (-3, 0.5, $1,080, 72 clips)'
)
EQUATION = re.compile(r"<<((?:(?!<<|>>).)*)>>", re.DOTALL)
LISTED = 10
"""Bad rows that an error names."""
Row = tuple[str, list[str], str]
"""Question, equations and normalised answer."""


class _BadRow(ValueError):
    """What is wrong with a row, as it follows after its line: `has no question`."""


def read_gsm8k(
    path: str, flag: str, drop_last_step: bool = False, sha256: str | None = None
) -> tuple[list[Example], RowCounts]:
    """The rows of a file in file order, and how many were left out.

    `flag` (--train_file, --eval_file) is what errors name, with path and line. A file that has not the
    `sha256` asked for is refused.
    """
    content = _content(path, flag)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{flag} {path} is not the file of this trial, whose SHA-256 is {sha256}: "
            "put that file back, or start a new trial with this one."
        )
    source = f"{flag} {path}"
    return _read(source, _rows(content.removeprefix(b"\xef\xbb\xbf"), source), drop_last_step)


def download_gsm8k(drop_last_step: bool = False) -> tuple[list[Example], RowCounts]:
    """The hub's training rows; its test rows are never touched.

    Raises InputError, within seconds, where the hub cannot be reached and HF_HUB_OFFLINE does not say that
    the rows are cached.
    """
    from huggingface_hub import constants

    ways_out = (
        "Give --train_file a local file of its format, or choose --dataset arithmetic: both need no network."
    )
    if not hub_reachable() and not constants.HF_HUB_OFFLINE:
        raise InputError(
            f"--dataset gsm8k loads {HUB_NAME} from {constants.ENDPOINT}, which does not answer. {ways_out}"
        )
    import datasets

    try:
        rows = datasets.load_dataset(HUB_NAME, "main", split="train")
    except Exception as error:  # datasets raises its own, the hub's, the HTTP library's and pyarrow's
        raise InputError(
            f"--dataset gsm8k could not load {HUB_NAME}: {_first_line(error)}. {ways_out}"
        ) from error
    return _read(HUB_NAME, ((f"row {i}", row) for i, row in enumerate(rows)), drop_last_step)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _content(path: str, flag: str) -> bytes:
    """The bytes of a regular file: a device or a pipe might never end."""
    endless = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    reason = "it is no file" if endless else None
    try:
        if reason is None:
            with open(path, "rb") as file:
                return file.read()
    except OSError as error:
        reason = str(error.strerror)
    raise InputError(f"{flag} {path} cannot be read ({reason}): give a file with rows like {FORMAT}.")


def _rows(content: bytes, source: str) -> Iterator[tuple[str, Any]]:
    """(where, row) of every item of a JSON list, or of every line that is not blank, as its bytes."""
    if content.lstrip().startswith(b"["):
        try:
            items = from_json(content)
        except ValueError as error:
            raise InputError(f"{source} is not JSON ({error}): a row looks like {FORMAT}.") from error
        yield from ((f"row {number}", item) for number, item in enumerate(items, start=1))
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield f"line {number}", line


def _read(
    source: str, rows: Iterable[tuple[str, Any]], drop_last_step: bool
) -> tuple[list[Example], RowCounts]:
    read = _read_all(source, rows)
    kept = [(question, steps[: len(steps) - drop_last_step], answer) for question, steps, answer in read]
    examples = [
        make_example(f"{question}\n", " ".join(steps) + "\n", f"{MARK} ", answer)
        for question, steps, answer in kept
        if steps
    ]
    no_equation = sum(not steps for _, steps, _ in read)
    one_step = len(read) - len(examples) - no_equation
    return examples, RowCounts(no_equation=no_equation, one_step=one_step)


def _read_all(source: str, rows: Iterable[tuple[str, Any]]) -> list[Row]:
    """Every row's parts; one InputError for all the rows that cannot be read."""
    read, bad = [], []
    for where, row in rows:
        try:
            read.append(_parts(_fields(row)))
        except _BadRow as error:
            bad.append(f"{where} {error}")
    if bad:
        raise _refusal(source, bad, len(read) + len(bad))
    return read


def _refusal(source: str, bad: list[str], rows: int) -> InputError:
    told = f", {bad[0]}"
    if len(bad) > 1:
        told = f": {len(bad):,} of {rows:,} rows cannot be read: {'; '.join(bad[:LISTED])}"
    if len(bad) > LISTED:
        told += f"; and {len(bad) - LISTED:,} more"
    return InputError(f"{source}{told}: a row looks like {FORMAT}.")


def _fields(row: Any) -> Mapping[str, Any]:
    """A row as its fields; a line is parsed first."""
    if isinstance(row, bytes):
        row = _parsed(row)
    if not isinstance(row, Mapping):
        raise _BadRow(f"is a JSON {type(row).__name__}, not an object")
    return row


def _parsed(line: bytes) -> Any:
    question, bars, worked = line.rpartition(b"||")
    text = bars and not line.lstrip().startswith(b"{")
    try:
        if text:
            return {"question": question.decode(), "answer": worked.decode()}
        return from_json(line)
    except ValueError as error:
        reason = str(error).replace(" at line 1 column", " at column")
        raise _BadRow(f"is not {'UTF-8' if text else 'JSON'} ({reason})") from error


def _parts(row: Mapping[str, Any]) -> Row:
    question, text = _text(row, "question"), _text(row, "answer")
    worked, mark, final = text.rpartition(MARK)
    apart = _equations_apart(row)
    if apart is None and not mark:
        raise _BadRow(f"has no final answer after {MARK}")
    answer = leading_number(final)
    if answer is None:
        place = f"after {MARK}" if mark else "as its answer"
        raise _BadRow(f"has {short(final.strip())} {place}, which is no plain number")
    return question, _steps(worked if apart is None else apart), answer


def _steps(worked: str) -> list[str]:
    """The annotated equations, without spaces; one that holds nothing is none."""
    found = EQUATION.findall(worked)
    if worked.count("<<") != len(found):
        raise _BadRow("has a << without its >>")
    return ["".join(equation.split()) for equation in found if equation.strip()]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise _BadRow(f"has no {name}")
    if not isinstance(value, str):
        raise _wrong_kind(name, value, "a text")
    if not value.strip():
        raise _BadRow(f"has an empty {name}")
    return value.strip()


def _equations_apart(row: Mapping[str, Any]) -> str | None:
    """What GSM8K-Aug holds apart from the answer; None in a row of GSM8K's own form."""
    steps, chain = row.get("steps"), row.get("cot")
    if isinstance(steps, list) and all(isinstance(step, str) for step in steps):
        return " ".join(steps)
    if steps is not None:
        raise _wrong_kind("steps", steps, "a list of texts")
    if chain is not None and not isinstance(chain, str):
        raise _wrong_kind("cot", chain, "a text")
    return chain


def _wrong_kind(name: str, value: Any, wanted: str) -> _BadRow:
    number = "the number " * (isinstance(value, int | float) and not isinstance(value, bool))
    return _BadRow(f"has a field of the wrong kind: {name} is {number}{short(value)}, not {wanted}")
