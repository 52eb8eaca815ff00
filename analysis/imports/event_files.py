"""TensorBoard's event files: the scalars of every folder, old-style and stored as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.imports.mapping import Mapped
from analysis.imports.table import Table, table_of
from analysis.plan import ResultsError

EVENTS = "*tfevents*"


def read_tensorboard(path: Path, meaning: Mapped) -> Iterator[Table]:
    """A folder with event files is a run, the tags are its columns; a file without scalars is one empty row.

    What torch's add_hparams writes in a folder below a run's is a copy of its last values, and no run.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob(EVENTS) if file.is_file())
    folders = {file.parent for file in files}
    step, clock = _own_columns(meaning)
    for file in files:
        events = _events(file)
        if _is_hparams(events) and folders & set(file.parent.parents):
            continue
        rows = list(_scalars(events, step, clock))
        cells = pd.DataFrame(rows, dtype="str") if rows else pd.DataFrame({step: [None]}, dtype="str")
        place = str(file if path.is_file() else file.parent)
        yield table_of(
            cells, file=place, run=file.parent.name, key=place, part=str(file), step=step, in_order=True
        )


def _own_columns(meaning: Mapped) -> tuple[str, str]:
    """The names of the columns of steps and of times: not those of tags that the mapping reads."""
    taken = {metric.column for metric in meaning.metrics.values()}
    step, clock = (f"event_{name}" if name in taken else name for name in ("step", "wall_time"))
    return step, clock


def _events(file: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise ResultsError(
            "--from tensorboard needs a package that is not here: pip install tensorboard."
        ) from None
    everything = {"scalars": 0, "tensors": 0}
    events = EventAccumulator(str(file), size_guidance=everything, purge_orphaned_data=False)
    try:
        events.Reload()
    except Exception as error:
        raise ResultsError(f"{file} cannot be read as TensorBoard's events ({error}).") from None
    return events


def _is_hparams(events: Any) -> bool:
    return any(found.plugin_data.plugin_name == "hparams" for found in events.summary_metadata.values())


def _scalars(events: Any, step: str, clock: str) -> Iterator[dict[str, str]]:
    """One row per step, in the order written; a further one where a tag stands at its step again."""
    rows: dict[tuple[int, int], dict[str, str]] = {}
    first: dict[tuple[int, int], float] = {}
    for tag, logged in _logged(events):
        seen: Counter[int] = Counter()
        for event, value in logged:
            place = event.step, seen[event.step]
            seen[event.step] += 1
            own = {step: str(event.step), clock: repr(event.wall_time)}
            rows[place] = rows.get(place, {}) | {tag: repr(value)} | own
            first[place] = min(first.get(place, event.wall_time), event.wall_time)
    yield from (rows[place] for place in sorted(first, key=lambda place: first[place]))


def _logged(events: Any) -> Iterator[tuple[str, list[tuple[Any, float]]]]:
    """Every tag of scalars with its events and values, also of those that TF2 stores as tensors."""
    from tensorboard.util.tensor_util import make_ndarray

    for tag in events.Tags()["scalars"]:
        yield tag, [(event, float(event.value)) for event in events.Scalars(tag)]
    for tag in events.Tags()["tensors"]:
        arrays = [(event, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if all(array.ndim == 0 and array.dtype.kind in "fiub" for _, array in arrays):
            yield tag, [(event, float(array)) for event, array in arrays]
