"""What the files of a trial's record hold, and the seal by which a change of them is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, with_config
from typing_extensions import TypedDict

from trainables.json_files import LARGE, CorruptFile, Whole, content, opened


class Row(TypedDict):
    """A line of metrics.jsonl."""

    step: Whole
    epoch: FiniteFloat
    tokens: Whole
    wall_s: FiniteFloat
    split: str
    n_items: Whole
    metrics: dict[str, float]


class Item(TypedDict):
    """What is read of a line of predictions.jsonl."""

    item_id: str
    correct: bool


class Sum(TypedDict):
    """What a file held when it was sealed."""

    sha256: str
    rows: NotRequired[int]


@with_config(ConfigDict(extra="allow"))
class Result(TypedDict):
    """What others rely on in result.json; it holds more."""

    status: Literal["completed", "diverged"]
    config_hash: str
    failure_reason: NotRequired[str | None]
    completed_steps: NotRequired[Whole | None]
    tokens_seen: NotRequired[Whole | None]
    wall_s: NotRequired[FiniteFloat | None]
    peak_mem_bytes: NotRequired[Whole | None]
    versions: NotRequired[dict[str, Any] | None]
    record: NotRequired[dict[str, Sum]]


ROW, ITEM, RESULT = TypeAdapter(Row), TypeAdapter(Item), TypeAdapter(Result)


def sum_of(path: Path) -> Sum:
    """What a file holds now."""
    data = content(path, LARGE)
    return {"sha256": hashlib.sha256(data).hexdigest(), "rows": data.count(b"\n")}


def refuse_changed(path: Path, told: Sum | None) -> None:
    """Raise CorruptFile where a file is not what was sealed; None: there was none."""
    try:
        data = content(path, LARGE)
    except FileNotFoundError:
        if told is not None:
            raise CorruptFile(path, f"is gone, and result.json tells of {told.get('rows')} rows") from None
        return
    if told is None:
        raise CorruptFile(path, "is there, and result.json knows of none")
    if hashlib.sha256(data).hexdigest() == told["sha256"]:
        return
    rows = data.count(b"\n")
    if rows != told.get("rows"):
        raise CorruptFile(path, f"has {rows} rows, and result.json tells of {told.get('rows')}")
    raise CorruptFile(path, "is not as the trial wrote it (SHA-256)")


def refuse_open(path: Path) -> None:
    """Raise CorruptFile where a file that nobody sealed is gone, empty, or ends within a row."""
    try:
        with opened(path) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() == b"\n":
                    return
                raise CorruptFile(path, "ends within a row, and the trial has a result")
    except FileNotFoundError:
        raise CorruptFile(path, "is gone, and the trial has a result") from None
    raise CorruptFile(path, "is empty, and the trial has a result")


def digest(result: Mapping[str, Any]) -> str:
    """SHA-256 of a result without its seal, however it is laid out."""
    text = json.dumps(result, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
