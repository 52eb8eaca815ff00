"""GSM8K's rows: a question, and a worked answer with <<48/2=24>> annotations that ends in `#### 72`.

The chain of thought is the annotated equations without their brackets, `48/2=24 48+24=72`. Rows that are
worked in words only (95 of the 7,473 training rows) are counted and left out: they are sound, but there is no
equation to learn from. A row without question, answer, worked chain or `####` is an error, since then the
file is not what it is taken for. Question and chain each end with a line end, where tokenizers split.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from trainables.config import InputError
from trainables.examples import Example, RowCounts, make_example
from trainables.hub import hub_reachable

MARK = "####"
HUB_NAME = "openai/gsm8k"
FORMAT = '{"question": "...", "answer": "... <<48/2=24>>24 ... #### 72"}'
EQUATION = re.compile(r"<<(.+?)>>")
NUMBER = re.compile(r"([-+]?)\$?([-+]?)(\d[\d,]*\.?\d*|\.\d+)", re.ASCII)


def leading_number(text: str) -> str | None:
    """The number `text` begins with, normalised; None where it begins with none.

    Commas, dollar signs, leading zeros and trailing zeros after the point are dropped: $1,080.00 is 1080.
    Works on digits, so that no two different numbers become equal. Text after the number is not read, as in
    GSM8K's own grading (openai/grade-school-math, dataset.py).
    """
    match = NUMBER.match(text.strip())
    if match is None:
        return None
    whole, _, fraction = match[3].replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if "-" in (match[1], match[2]) and number != "0" else number


def read_gsm8k(
    path: str, flag: str, drop_last_step: bool = False, sha256: str | None = None
) -> tuple[list[Example], RowCounts]:
    """The rows of a JSONL file in file order, and how many were left out.

    `flag` (--train_file, --eval_file) is what errors name, with path and line. A file that has not the
    `sha256` asked for is refused.
    """
    return _read(_parsed_lines(path, flag, sha256), drop_last_step)


def download_gsm8k(drop_last_step: bool = False) -> tuple[list[Example], RowCounts]:
    """The hub's training rows; its test rows are never touched.

    Raises InputError, within seconds, where the hub cannot be reached and HF_HUB_OFFLINE does not say that
    the rows are cached.
    """
    from huggingface_hub import constants

    ways_out = (
        "Give --train_file a local JSONL of its format, or choose --dataset arithmetic: both need no network."
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
    return _read(((f"{HUB_NAME}, row {i}", row) for i, row in enumerate(rows)), drop_last_step)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _parsed_lines(path: str, flag: str, sha256: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) of every line that is not blank."""
    content = _content(path, flag)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{flag} {path} is not the file of this trial, whose SHA-256 is {sha256}: "
            "put that file back, or start a new trial with this one."
        )
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{flag} {path}, line {number}"
        if line.strip():
            yield where, _json_object(line, where)


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
    raise InputError(f"{flag} {path} cannot be read ({reason}): give a JSONL file with rows like {FORMAT}.")


def _json_object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        row = from_json(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): every line must be a row like {FORMAT}.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is a JSON {type(row).__name__}, not an object: a row looks like {FORMAT}.")
    return row


def _read(
    rows: Iterator[tuple[str, Mapping[str, Any]]], drop_last_step: bool
) -> tuple[list[Example], RowCounts]:
    examples, no_equation, one_step = [], 0, 0
    for where, row in rows:
        question, worked, answer = _parts(row, where)
        steps = ["".join(equation.split()) for equation in EQUATION.findall(worked)]
        kept = steps[: len(steps) - drop_last_step]
        no_equation += not steps
        one_step += bool(steps) and not kept
        if kept:
            examples.append(make_example(f"{question}\n", " ".join(kept) + "\n", f"{MARK} ", answer))
    return examples, RowCounts(no_equation=no_equation, one_step=one_step)


def _parts(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """(question, worked chain, normalised answer) of one row, all of them there."""
    question, text = _field(row, "question", where), _field(row, "answer", where)
    worked, mark, final = text.rpartition(MARK)
    if not mark:
        raise InputError(f"{where} has no final answer after ####: a row looks like {FORMAT}.")
    if not worked.strip():
        raise InputError(f"{where} has no chain of thought before ####: a row looks like {FORMAT}.")
    answer = leading_number(final)
    if answer is None:
        raise InputError(
            f"{where} has {final.strip()!r} after ####, which is no number: a row looks like {FORMAT}."
        )
    return question, worked, answer


def _field(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        given = f"an empty {name}" if isinstance(value, str) else f"no {name}"
        raise InputError(f"{where} has {given}: a row looks like {FORMAT}.")
    return value.strip()
