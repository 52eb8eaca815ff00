"""What Hugging Face's Trainer leaves: trainer_state.json of every output folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.imports.mapping import Mapped
from analysis.imports.table import Table, table_of
from analysis.plan import ResultsError, read_object

FILE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def read_trainer(path: Path, meaning: Mapped) -> Iterator[Table]:
    """Each output folder is a run: its own state, else that of its furthest checkpoint."""
    files = [path] if path.is_file() else sorted(path.rglob(FILE))
    runs: dict[Path, list[Path]] = {}
    for file in files:
        folder = file.parent
        runs.setdefault(folder.parent if CHECKPOINT.fullmatch(folder.name) else folder, []).append(file)
    for folder, states in runs.items():
        yield _run(max(states, key=_reached), folder)


def _reached(file: Path) -> float:
    """Steps at which a state was saved; the output folder's own is the last."""
    found = CHECKPOINT.fullmatch(file.parent.name)
    return int(found[1]) if found else float("inf")


def _run(file: Path, folder: Path) -> Table:
    state = read_object(file, "restore it, or leave its run out", finite=False)
    rows = state.get("log_history")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ResultsError(f"{file} has no log_history, so it is no state of Hugging Face's Trainer.")
    texts = [{name: _text(value) for name, value in row.items()} for row in rows]
    cells = pd.DataFrame(texts or [{"step": None}], dtype="str")
    planned = state["max_steps"] if isinstance(state.get("max_steps"), int) else math.nan
    ended = state.get("global_step") == planned
    planned = math.nan if ended else planned  # its last log may lie before its last step
    return table_of(
        cells, file=str(file), run=folder.name, key=str(folder), planned=planned,
        status="finished" if ended else None, reason="its state says so" if ended else None, in_order=True,
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value)
