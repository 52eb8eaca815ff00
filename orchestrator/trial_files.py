"""What a trial's folder says, read with suspicion: a torn or corrupt file is a finding, never a traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.attempts import RESULTS
from trainables.trial_folder import TrialFolder

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class CorruptFile(Exception):
    """A file of a trial that cannot be used: which one, and what is wrong with it."""


def read_result(folder: Path, config_hash: str) -> dict[str, Any] | None:
    """result.json of the trial, None if it is not there.

    Raises CorruptFile if it is unreadable, or belongs to another configuration.
    """
    try:
        result = json.loads(TrialFolder(folder).result.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptFile(f"result.json cannot be read: {_first_line(error)}") from None
    if not isinstance(result, dict) or result.get("status") not in RESULTS:
        raise CorruptFile("result.json has no status completed or diverged")
    if result.get("config_hash") != config_hash:
        raise CorruptFile(
            f"result.json is of configuration {result.get('config_hash')!r}, not {config_hash!r}"
        )
    return result


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl, non-finite values as floats; a killed trial's torn last line is left out.

    Raises CorruptFile for an unreadable line anywhere else.
    """
    lines = _lines(TrialFolder(folder).metrics)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            yield {
                "step": int(row["step"]),
                "epoch": float(row.get("epoch") or 0.0),
                "tokens": int(row.get("tokens") or 0),
                "wall_s": float(row.get("wall_s") or 0.0),
                "split": str(row["split"]),
                "n_items": int(row.get("n_items") or 0),
                "metrics": {str(name): _number(value) for name, value in row["metrics"].items()},
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):
                return
            raise CorruptFile(
                f"line {number} of metrics.jsonl cannot be read: {_first_line(error)}"
            ) from None


def read_last_row(folder: Path) -> dict[str, Any] | None:
    """The newest row of metrics.jsonl, from its last few kilobytes; None if there is none yet."""
    try:
        with TrialFolder(folder).metrics.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            tail = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(tail):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return None


def read_items(folder: Path) -> Iterator[tuple[str, bool]]:
    """(item_id, correct) of the last evaluation; unreadable lines raise CorruptFile."""
    for number, line in enumerate(_lines(TrialFolder(folder).predictions), start=1):
        try:
            item = json.loads(line)
            yield str(item["item_id"]), bool(item["correct"])
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFile(
                f"line {number} of predictions.jsonl cannot be read: {_first_line(error)}"
            ) from None


def _number(value: Any) -> float:
    if isinstance(value, str):
        return NON_FINITE[value]
    return math.nan if value is None else float(value)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CorruptFile(f"{path.name} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
